"""`quantize` and `prune` with `--device cuda`, on the device that stands in for one, and what engines are asked for."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from stand_in_cuda import StandIn, stand_in_cuda, stand_in_graphs
from test_methods import images
from test_placement import make

import compress
from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import processes
from compress.measure import latency
from compress.methods import METHODS, Int8
from compress.runtimes import graph_files, ort, ort_session
from compress.runtimes.base import Inspection, Session
from compress.runtimes.client import Worker
from compress.runtimes.server import Server
from compress.runtimes.standing import StandingSession
from compress.runtimes.torch_session import GraphSession
from compress.verbs.prune import Request as PruneRequest
from compress.verbs.prune import prune
from compress.verbs.quantize import Request, quantize
from compress.verbs.quantize.recipes import list_engines, list_recipes

CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=16, depth=2, heads=2, mlp_dim=32)


class Here:
    """A worker in this process, where the stand-in is: what its server answers, without a pipe."""

    def __init__(self, session: Session, inspect: Any):
        self.server, self.process = (
            Server(session, inspect, time.perf_counter),
            SimpleNamespace(pid=1, poll=lambda: None),
        )

    def ready(self) -> dict[str, Any]:
        return {"load_s": 0.0, "device_name": self.server.session.device_name}

    def put(self, name: str, batches: Sequence[np.ndarray]) -> None:
        self.server.put([*batches], name)

    def turn(self, name: str, first: int, calls: int, uncounted: int = 1) -> list[float]:
        return self.server.turn([], name, first, calls, uncounted)["samples"]

    def logits(self, batch: np.ndarray) -> np.ndarray:
        return self.server.logits([batch])["arrays"][0]

    def peak_memory_bytes(self) -> int | None:
        return self.server.session.peak_memory_bytes()

    def inspect(self) -> Inspection:
        return self.server.inspect_()

    def close(self) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A GPU without 8-bit floats, and workers that see it."""
    facts: Mapping[str, Any] = {
        "is_available": True,
        "get_device_name": "stand-in",
        "get_device_capability": (8, 0),
        "synchronize": None,
        "max_memory_allocated": 7,
    }
    for name, value in facts.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr(latency, "TURN_S", 1e-4)  # one call a turn
    monkeypatch.setitem(latency.interleave.__kwdefaults__, "min_rounds", 3)

    def start(_cls: type, name: str, path: Path, device: str, threads: int, *_rest: object) -> Here:
        runtime = runtimes.get(name)
        return Here(runtime.load(path, device, threads), lambda: runtime.inspect(path, None, device))

    def start_standing(device: str, _threads: int) -> Here:
        worker = Here(StandingSession(device), lambda: Inspection("fp32"))
        worker.put("batches", [np.zeros(1, np.float32)])
        return worker

    monkeypatch.setattr(Worker, "start", classmethod(start))
    monkeypatch.setattr(processes, "start_standing", start_standing)
    with stand_in_cuda() as seen, stand_in_graphs(seen):
        yield seen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = VisionTransformer(CONFIG).state_dict()
    content = Checkpoint(CONFIG, (), state, "digits", tuple("0123456789"), (0.3,), (0.4,))
    checkpoint.save(tmp_path / "vit.pth", content)
    return tmp_path / "vit.pth"


def test_quantize_builds_scores_and_times_its_candidates(file: Path, cuda: StandIn) -> None:
    said, quick = io.StringIO(), file.with_name("quick.toml")
    quick.write_text('[methods.int8]\nobserver = "minmax"\nrescale = false\nreconstruct = false\nweigh = false\n')
    few: dict[str, Any] = {"config": quick, "test_images": 40, "calibration_images": 16, "seconds": 0.01}
    request = Request(path=file, out=file.parent, device="cuda", **few)
    outcome = quantize(request, Console(file=said, width=200))
    rows = outcome.rows or []
    assert {(row.device, row.device_name) for row in rows} == {("cuda", "stand-in")}
    assert {row.failed for row in rows} == {None}
    found = {(row.runtime, row.variant): row for row in rows}
    assert {*found} == {(name, each) for name in ("torch", "torch.cudagraphs") for each in ("vit", "bf16", "int8")}
    assert {row.executed for row in rows if row.variant == "int8"} == {"int8"}
    assert {row.peak_memory_bytes for row in rows if row.completed} == {7}
    assert all(row.agreement == 1 for row in rows if row.completed and row.variant == "vit" and not row.dense)
    (chosen,) = [row for row in rows if row.chosen]
    assert chosen.variant == "int8"
    assert outcome.written
    assert file.with_name("vit.int8.pth") in outcome.written
    assert "device='cuda'" in said.getvalue()
    assert ("to the host", "compress/runtimes/torch_session.py", "get") in cuda.waits


@pytest.mark.parametrize(("method", "amounts"), [("slim", {"keep": "0.7"}), ("topk", {"target_macs": "0.8"})])
def test_prune_searches_and_calibrates_on_the_device(
    method: str, amounts: dict[str, str | None], file: Path, cuda: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: set[str] = set()
    kind = METHODS[method]
    settle = kind.settle

    def look(self: Any, model: Any, batches: list[torch.Tensor]) -> Any:
        places.update(each.device.type for each in (*model.parameters(), *batches))
        return settle(self, model, batches)

    monkeypatch.setattr(kind, "settle", look)
    common: dict[str, Any] = {"epochs": 0, "config": None, "data": None, "batch_size": 1, "threads": 1, "seed": None}
    request = PruneRequest(
        path=file, verb="prune", method=method, amounts=amounts, learned=False, device="cuda", out=None, resume=True,
        seconds=0.01, **common,
    )  # fmt: skip
    outcome = prune(request, Console(quiet=True))
    assert places == {"cuda"}
    assert [(row.device, row.failed) for row in outcome.rows or []] == [("cuda", None)] * 2
    state = checkpoint.load(file.with_name(f"vit.{method}.pth")).state
    assert {each.device.type for each in state.values()} == {"cpu"}


def test_without_a_device_one_sentence_refuses(file: Path) -> None:
    for verb in (compress.quantize, compress.prune, compress.halt):
        with pytest.raises(InputError, match="--device cuda was asked for, but torch finds no CUDA device here"):
            verb(file, device="cuda", verbose=False)


def test_eight_bit_floats_take_part_where_the_card_has_them(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def list_names(mode: str | None = None) -> list[str]:
        recipes = list_recipes(mode, Int8(), list_engines((), "cuda"), "cuda", images_decide=False)
        return [each.name for each in recipes if each.narrow]

    del cuda
    assert list_names() == ["torch: static", "torch.cudagraphs: static"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    assert list_names() == ["torch: static", "torch: fp8", "torch.cudagraphs: static", "torch.cudagraphs: fp8"]
    assert list_names("static") == ["torch: static", "torch.cudagraphs: static"]
    with pytest.raises(InputError, match="--device cuda makes no integers of such a model"):
        list_engines((), "cuda", foreign=True)


def test_a_graph_answers_as_the_model_does_and_reads_where_it_was_recorded(cuda: StandIn) -> None:
    for name in ("topk", "tome", "int8"):
        _, shipped = make(name, "cls", torch.device("cuda"))
        session = GraphSession(shipped.cpu(), "cuda")
        first, second = (session.put(images(2).numpy() * scale) for scale in (1, -2))
        session.run(first)
        assert [*session.recorded] == [first.shape]
        expected = shipped(second)
        cuda.waits.clear()
        answers = session.run(second)
        assert not cuda.waits
        torch.testing.assert_close(answers, expected)
        assert session.recorded[first.shape][2] is session.run(first)


def test_what_waits_cannot_be_recorded(cuda: StandIn) -> None:
    _, shipped = make("avit", "cls", torch.device("cuda"))
    session = GraphSession(shipped.cpu(), "cuda")
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        session.run(session.put(images(2).numpy()))


class Asked:
    """Stands in for an ONNX Runtime built for GPUs."""

    starts: tuple[str, ...] = (ort_session.TENSORRT, ort_session.CUDA, ort_session.CPU)

    def __init__(self, path: Path, options: Any, providers: list[Any]):
        Asked.providers = providers

    def get_providers(self) -> list[str]:
        names = [each if isinstance(each, str) else each[0] for each in (*self.providers, ort_session.CPU)]
        return [name for name in names if name in self.starts]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="images", shape=["batch", 1, 8, 8])]


def test_onnx_runtime_is_asked_for_its_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it would leave to a CPU is refused."""
    monkeypatch.setattr(ort_session.onnxruntime, "InferenceSession", Asked)
    monkeypatch.setattr(ort_session.onnxruntime, "get_available_providers", lambda: [*Asked.starts])
    said = {"fallback_dtype": '"bf16"'}
    monkeypatch.setattr(ort_session, "read_graph_file", lambda _: graph_files.GraphFile(said, None))
    assert runtimes.get("onnxruntime").devices() == ("cpu", "cuda")
    assert runtimes.get("tensorrt").devices() == ("cuda",)
    runtimes.get("onnxruntime").load(Path("a.onnx"), "cuda", 1)
    cuda = (ort_session.CUDA, {"use_tf32": "0"})
    assert Asked.providers == [cuda]
    tensorrt = ort.TensorRT()
    tensorrt.load(Path("a.onnx"), "cuda", 1, 4)
    assert Asked.providers == [(ort_session.TENSORRT, {"trt_bf16_enable": "1"}), cuda]
    content = Checkpoint(CONFIG, (), {}, mean=(0,), std=(1,))
    assert "'use_tf32': '0'" in runtimes.get("onnxruntime").write_usage(Path("a.onnx"), content, 1, "cuda")
    assert "'trt_bf16_enable': '1'" in tensorrt.write_usage(Path("a.onnx"), content, 1)
    said["fallback_dtype"] = '"fp32"'
    tensorrt.load(Path("a.onnx"), "cuda", 1, 4)
    assert Asked.providers[0] == (ort_session.TENSORRT, {"trt_bf16_enable": "0"})
    monkeypatch.setattr(Asked, "starts", (ort_session.CPU,))
    with pytest.raises(RuntimeError, match=r"could not start its CUDAExecutionProvider, .*compress-vit\[gpu\]"):
        runtimes.get("onnxruntime").load(Path("a.onnx"), "cuda", 1)
