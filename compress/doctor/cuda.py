"""The GPUs that torch can use here, and who else does."""

from compress.doctor.engines import Found
from compress.measure.load import ask_gpu, gpu_processes

TENSOR_CORES = (("bf16", (8, 0)), ("int8", (7, 5)), ("fp8", (8, 9)))  # from which compute capability on


def rows(torch: Found) -> list[tuple[str, str]]:
    """What is there, or in words why there is nothing."""
    built, devices, driver = torch.facts.get("cuda"), torch.facts.get("devices", []), driver_version()
    lines = [("driver", driver)] if driver else []
    if not torch.works:
        return [*lines, ("devices", "unknown: torch does not work here")]
    if not devices:
        return [*lines, ("devices", _none(torch, built, driver))]
    lines.append(("runtime", f"CUDA {built}"))
    for index, each in enumerate(devices):
        capability = tuple(each["capability"])
        kinds = [name for name, least in TENSOR_CORES if capability >= least]
        lines.append(
            (
                f"device {index}",
                f"{each['name']}, capability {capability[0]}.{capability[1]}, {each['total'] / 1e9:.1f} GB, "
                f"{each['free'] / 1e9:.1f} GB free; tensor cores for {', '.join(kinds) or 'fp16 at most'}",
            )
        )
    return lines


def _none(torch: Found, built: str | None, driver: str) -> str:
    if built:
        warned = next((line.strip() for line in torch.said.splitlines() if "CUDA" in line), "")
        return f"none that torch can use, though torch {torch.version} is built for CUDA {built}" + (
            f": {warned}" if warned else "; is there an NVIDIA GPU, and a driver for it?"
        )
    also = "; there is an NVIDIA GPU: install a torch that is built for CUDA to use it" if driver else ""
    return f"none: torch {torch.version} is built without CUDA{also}"


def others() -> list[str]:
    """Programs on the GPUs, in words."""
    return [f"the GPU is also used by {name}: timings on cuda will be noisy" for name in gpu_processes()]


def driver_version() -> str:
    """As nvidia-smi tells it; empty where there is none."""
    return next(iter(ask_gpu("--query-gpu=driver_version")), "")
