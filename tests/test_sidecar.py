"""What made a file stands beside it, and nothing better, or of unknown origin, is overwritten unasked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from made_rows import bare

from baselines.errors import InputError
from baselines.sources import load
from baselines.vit import VisionTransformer, ViTConfig
from compress import loading, sidecar
from compress.checkpoints import checkpoint
from compress.cli import main
from compress.sidecar import Origin


def measured(top1: float, n_images: int = 1000) -> Any:
    return bare(top1=top1, n_images=n_images)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "vit.pth").write_bytes(b"weights")
    return tmp_path


def write(place: Path, content: bytes, row: Any = None, source: str = "vit.pth", **origin: Any) -> None:
    made_by = Origin(**{"source": place / source, "command": "compress quantize", "options": {}} | origin)
    sidecar.check_target(place / "vit.int8.onnx", made_by, row.n_images if row else None)
    sidecar.write_files({place / "vit.int8.onnx": content}, place / "vit.int8.onnx", made_by, row)


def test_the_record_says_what_made_the_file(place: Path) -> None:
    write(place, b"a", measured(0.9), options={"mode": "static", "out": Path("x")})
    record = json.loads((place / "vit.int8.onnx.json").read_text())
    assert record["source_sha256"] == sidecar.hash_path(place / "vit.pth")
    assert record["options"] == {"mode": "static", "out": "x"}
    assert (record["top1"], record["n_images"], record["command"]) == (0.9, 1000, "compress quantize")
    assert record == sidecar.read_record(place / "vit.int8.onnx")
    (place / "vit.int8.onnx").write_bytes(b"changed by hand")
    assert sidecar.read_record(place / "vit.int8.onnx") is None


@pytest.mark.parametrize(
    ("row", "source", "words"),
    [
        (measured(0.9, 500), "vit.pth", "was scored on 1,000 test images, and this would be on 500"),
        (measured(0.5), "vit.pth", "has a significantly higher top-1, 90.0 % against 50.0 %"),
        (measured(0.95), "other.pth", "was made of other weights"),
        (None, "vit.pth", "was scored on 1,000 test images"),
    ],
)
def test_what_is_better_or_other_stays_until_forced(row: Any, source: str, words: str, place: Path) -> None:
    (place / "other.pth").write_bytes(b"other weights")
    write(place, b"a", measured(0.9), options={"mode": "static"})
    with pytest.raises(InputError, match=words) as refused:
        write(place, b"b", row, source)
    assert "--force" in str(refused.value)
    assert "--out" in str(refused.value)
    assert (place / "vit.int8.onnx").read_bytes() == b"a"
    write(place, b"b", row, source, force=True)
    assert (place / "vit.int8.onnx").read_bytes() == b"b"


def test_the_same_again_and_what_is_as_good_may_replace_it(place: Path) -> None:
    write(place, b"a", measured(0.9), options={"mode": "static"})
    write(place, b"b", measured(0.89), options={"mode": "dynamic"})  # not significantly lower
    write(place, b"c", measured(0.5), options={"mode": "dynamic"})  # the same command, which chose otherwise
    write(place, b"d", measured(0.5, 2000), options={})
    assert (place / "vit.int8.onnx").read_bytes() == b"d"


def test_what_nobody_vouches_for_is_replaced_by_the_same_alone(place: Path) -> None:
    (place / "vit.int8.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="nothing beside it says what made it"):
        write(place, b"a", measured(0.9))
    write(place, b"mine", measured(0.9))
    assert sidecar.read_record(place / "vit.int8.onnx") is not None
    (place / "vit.int8.onnx.json").write_text('{"files": [')
    with pytest.raises(InputError, match="nothing beside it"):
        write(place, b"a", measured(0.9))


def test_an_export_and_a_pruned_model(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vit = VisionTransformer(ViTConfig(image_size=8, patch_size=4, channels=1, dim=16, depth=1, heads=2, mlp_dim=16))
    model, trained = tmp_path / "model.pth", Path(shutil.copy(run.checkpoint(), tmp_path / "trained.pth"))
    checkpoint.save(model, loading.pack(vit, [], load("digits", (8, 8), 1), vit.config))
    target, other = tmp_path / "model.onnx", tmp_path / "b.onnx"
    for _ in range(2):
        assert main(["export", str(model)]) == 0
    assert json.loads((tmp_path / "model.onnx.json").read_text())["source"] == str(model)
    target.write_bytes(b"mine")
    capfd.readouterr()
    assert main(["export", str(model)]) == 2
    assert "--force" in capfd.readouterr().err
    assert target.read_bytes() == b"mine"
    assert main(["export", str(model), "--out", str(other)]) == main(["export", str(model), "--force"]) == 0
    assert target.read_bytes() == other.read_bytes()

    quick = ["--threads", "1", "--device", "cpu", "--seconds", "0.1"]
    small = tmp_path / "small.pth"
    assert main(["prune", str(trained), "--keep", "0.9", "--out", str(small), *quick]) == 0
    record = sidecar.read_record(small)
    assert record is not None
    assert (record["n_images"], record["options"]["amounts"]["keep"]) == (360, "0.9")
    assert (tmp_path / "small-prune" / "rows.jsonl").is_file()
    fuller = record | {"n_images": 1000}
    sidecar.locate_record(small).write_text(json.dumps(fuller))
    assert main(["prune", str(trained), "--keep", "0.1", "--out", str(small), *quick]) == 2
    assert "was scored on 1,000 test images, and this would be on 360" in " ".join(capfd.readouterr().err.split())
    assert sidecar.read_record(small) == fuller
