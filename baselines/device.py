"""What a device can do, as far as training has to know it."""

import torch

from baselines.cpu import cpu_flags
from baselines.errors import InputError


def resolve(name: str) -> torch.device:
    """`cpu`, `cuda` or `auto` (cuda where there is one) -> a device that exists here.

    Raises:
        InputError: unknown name, or CUDA asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name!r} is not known; choose cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda was asked for, but torch finds no CUDA device here; use --device cpu")
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware: CUDA from Ampere on, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool({"amx_bf16", "avx512_bf16"} & set(cpu_flags()))


def autocast_type(precision: str, device: torch.device) -> torch.dtype:
    """`auto`, `fp32`, `bf16` or `fp16` -> the type in which training multiplies; float32 means no autocast."""
    if precision == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
