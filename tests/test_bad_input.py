"""What a person can put right: one sentence that names it, exit code 2, no traceback, nothing damaged."""

import contextlib
import io
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run
from made_rows import example_rows
from PIL import Image

from baselines import photos, sources
from baselines.data import TensorSplit
from baselines.errors import InputError
from baselines.validation import hold_out
from compress import files
from compress.cli import main
from compress.training import curves

Refused = Callable[..., str]
SETTINGS = ("config.toml",)  # which stand in a run directory before its training begins


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must be refused, and gives its one sentence; no file may change but those `left`."""

    def check(*args: object, code: int = 2, left: tuple[str, ...] = ()) -> str:
        before = contents(tmp_path)
        assert main([str(arg) for arg in args]) == code
        sentence = one_sentence(*capfd.readouterr())
        after = contents(tmp_path)
        assert {path: content for path, content in after.items() if path.name not in left or path in before} == before
        return sentence

    return check


def one_sentence(out: str, err: str) -> str:
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 600
    return err.strip()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writes stop at `size` bytes of a file, halfway through, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- options and names


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--variants", "vit,turbo"], ["'turbo'", "vit, avit, topk, dynamicvit, tome, slim, distill, int8"]),
        (["--variants", "int8_avit"], ["'int8_avit'", "order", "write 'avit_int8'"]),
        (["--variants", "avit_avit"], ["'avit_avit'", "at most one"]),
        (["--variants", ","], ["--variants", "commas"]),
        (
            ["--data", "imagenet"],
            ["--data 'imagenet'", "digits, cifar10, cifar100, hf:NAME, webdataset:SHARDS, or the path"],
        ),
        (["--data", "folder:"], ["--data folder:", "folder:PATH"]),
        (["--data", "folder:nowhere"], ["folder:nowhere", "no such folder"]),
        (["--device", "tpu"], ["--device 'tpu'", "cpu, cuda or auto"]),
        (["--runtime", "tflite"], ["--runtime 'tflite'", "onnxruntime, openvino, nncf, tensorrt or auto"]),
        (["--batch-size", "0"], ["--batch-size '0'", "1,32"]),
        (["--batch-size", "1,two"], ["--batch-size '1,two'", "1,32"]),
        (["--batch-size", "-4"], ["--batch-size '-4'", "1,32"]),
        (["--threads", "0"], ["--threads", "compress bench --help"]),
        (["--seed", "99999999999999999999"], ["'seed'", "less than 2147483648", "correct it"]),
        (["--sead", "1"], ["--sead", "--seed", "compress bench --help"]),
        (["--checkpoint", "nowhere.pth"], ["nowhere.pth", "no such file"]),
    ],
)
def test_options(args: list[str], words: list[str], refused: Refused, tmp_path: Path) -> None:
    sentence = refused("bench", *args, "--out", tmp_path / "out")
    assert all(word in sentence for word in words), sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_where_there_is_none(refused: Refused, tmp_path: Path) -> None:
    assert "use --device cpu" in refused("bench", "--device", "cuda", "--out", tmp_path / "out")


def test_what_torchrun_sets_is_a_number(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "abc"), ("LOCAL_WORLD_SIZE", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert f"{name}='{value}' is not a number of processes" in refused("bench", "--quick")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE=2 and RANK=None are not what torchrun sets" in refused("train")


def test_no_image_is_left_to_learn_from() -> None:
    split = TensorSplit(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match=r"0\.95 of 4 training images leaves none to learn from"):
        hold_out(split, 0.95)
    assert [len(part) for part in hold_out(split, 0)] == [4, 0]


def test_signs_that_a_terminal_does_not_have_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(row.to_json() for row in example_rows()) + "\n")
    command = [sys.executable, "-m", "compress", "report", str(tmp_path)]
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_does_not_exist_and_one_that_lacks_its_file(refused: Refused) -> None:
    assert "'fly'" in refused("fly")
    assert "'checkpoint'" in refused("export").lower()


def test_the_script_itself(script: Any, tmp_path: Path) -> None:
    done = script("--variants", "int8_avit", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "int8_avit" in one_sentence(done.stdout, done.stderr)


# --- settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\ndimm = 32", ["'model.dimm'", "did you mean 'dim'"]),
        ("[train]\nepoch = 3", ["'train.epoch'", "did you mean 'epochs'"]),
        ("[methods.avit]\ntarget_mac = 0.5", ["[methods.avit]", "did you mean 'target_macs'"]),
        ("[methods.avit]\ntarget_macs = 7", ["[methods.avit]", "'target_macs'", "less than or equal to 1"]),
        ("[methods.avitt]\neps = 0.1", ["[methods.avitt]", "avit, topk, dynamicvit, tome, slim, distill, int8"]),
        ("varients = ['vit']", ["'varients'", "did you mean 'variants'"]),
        ("colour = 1", ["'colour'", "not a known key"]),
        ("[model]\ndim = 'wide'", ["'model.dim'", "integer"]),
        ("[train]\nlr = -1", ["'train.lr'", "greater than 0"]),
        ("model = 3", ["'model'", "dictionary"]),
        ("[model]\ndim = 32\nheads = 3", ["heads 3", "dim 32", "choose heads"]),
        ("[model]\nimage_size = 9\npatch_size = 2", ["image_size 9x9", "patch_size 2", "choose a patch_size"]),
        ("[model]\nchannels = 2", ["channels", "1 or 3"]),
        ("[model\ndim = 3", ["TOML", "line 1"]),
        ("variants = ['int8_avit']", ["write 'avit_int8'"]),
        ("[train]\ncrop_padding = 1000000000", ["'train.crop_padding'", "less than or equal to 256"]),
        ("[train]\nvalidation = 0.9999", ["'train.validation'", "less than or equal to 0.95"]),
        ("[train]\nsteps = 4611686018427387904", ["'train.steps'", "less than or equal to 100000000"]),
        ("[train]\nrandaugment = 1000000000", ["'train.randaugment'", "less than or equal to 100"]),
        ("[finetune]\nlr = inf", ["'finetune.lr'", "finite"]),
        ("[model]\ndepth = 1000000000", ["'model.depth'", "less than or equal to 10000"]),
        ("[methods.avit]\nponder = inf", ["[methods.avit]", "finite"]),
        ('init = "a\\u0000b"', ["NUL"]),
        ("data = " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
        ("methods." + ".".join("a" * 5000) + " = 1", ["nested too deeply"]),
        ("seed = " + "1" * 5000, ["not valid TOML"]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_settings(text: str, words: list[str], refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    sentence = refused("bench", "--config", path, "--out", tmp_path / "out")
    assert all(word in sentence for word in words), sentence


def test_a_settings_file_that_is_missing_or_no_text(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.toml" in refused("bench", "--config", "nowhere.toml")
    assert str(tmp_path) in refused("bench", "--config", tmp_path)
    (tmp_path / "photo.toml").write_bytes(b"\xff\xd8\xff\xe0")
    assert "photo.toml" in refused("train", "--config", tmp_path / "photo.toml")


def test_a_model_that_no_memory_holds(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "huge.toml").write_text("[model]\ndim = 2000000\nheads = 2\n")
    sentence = refused(
        "train", "--config", tmp_path / "huge.toml", "--threads", 1, "--out", tmp_path / "out", left=SETTINGS
    )
    assert "not enough memory" in sentence
    assert "[model]" in sentence


def test_a_training_that_explodes_says_what_to_lower(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "hot.toml").write_text(TINY.replace("lr = 4e-3", "lr = 1e30"))
    sentence = refused(
        "train", "--config", tmp_path / "hot.toml", "--threads", 1, "--out", tmp_path / "out", left=SETTINGS
    )
    assert "lower lr in [train]" in sentence


# --- checkpoints


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def plain_state_dict(raw: bytes) -> bytes:
    return saved(torch.load(io.BytesIO(raw), weights_only=True)["state"])


def archive_of_something(_raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "nothing to see")
    return buffer.getvalue()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Whole but wrong: `change` edits the content of the file."""

    def edit(raw: bytes) -> bytes:
        content = torch.load(io.BytesIO(raw), weights_only=True)
        change(content)
        return saved(content)

    return edit


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(cut, ["cut short or damaged"], id="cut in half"),
        pytest.param(lambda _: b"", ["is empty"], id="empty"),
        pytest.param(lambda raw: raw[:10], ["damaged"], id="10 bytes"),
        pytest.param(lambda _: b"dear diary\n" * 50, ["not a checkpoint"], id="text"),
        pytest.param(archive_of_something, ["damaged"], id="zip"),
        pytest.param(plain_state_dict, ["of no layout that compress knows"], id="plain state dict"),
        pytest.param(changed(lambda c: c["state"].pop("norm.bias")), ["norm.bias"], id="weight missing"),
        pytest.param(changed(lambda c: c["state"].update(extra=torch.ones(1))), ['"extra"'], id="weight too many"),
        pytest.param(
            changed(lambda c: c["state"].update({"norm.bias": torch.ones(5)})), ["norm.bias", "[5]"], id="wrong shape"
        ),
        pytest.param(changed(lambda c: c["state"].update({"norm.bias": "big"})), ["damaged"], id="weight of text"),
        pytest.param(changed(lambda c: c.pop("classes")), ["no 'classes'"], id="field missing"),
        pytest.param(changed(lambda c: c["classes"].pop()), ["9 names for 10 classes"], id="class name missing"),
        pytest.param(changed(lambda c: c.update(mean=[])), ["mean ()"], id="no mean"),
        pytest.param(changed(lambda c: c.update(config=[])), ["damaged"], id="no config"),
        pytest.param(changed(lambda c: c["config"].update(heads=5)), ["heads 5", "dim 32"], id="impossible config"),
        pytest.param(
            changed(lambda c: c["config"].update(depth=9_999)),
            ["weights for 9999 blocks"],
            id="config of a giant",
        ),
        pytest.param(changed(lambda c: c.update(methods=[7])), ["damaged"], id="method of nothing"),
        pytest.param(changed(lambda c: c.update(methods=[{"name": "x"}])), ["'x'", "avit, topk"], id="unknown method"),
        pytest.param(
            changed(lambda c: c.update(methods=[{"name": "avit", "dept": 1}])), ["'dept'"], id="unknown setting"
        ),
    ],
)
def test_checkpoints(spoil: Callable[[bytes], bytes], words: list[str], run: Run, refused: Refused, tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(spoil(run.checkpoint().read_bytes()))
    sentence = refused("export", path)
    assert all(word in sentence for word in [str(path), *words]), sentence
    assert refused("quantize", path) == sentence
    assert refused("bench", "--checkpoint", path, "--out", tmp_path / "out") == sentence


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw", "raw text"])
def test_files_that_would_run_code(kind: str, refused: Refused, tmp_path: Path) -> None:
    target, path = tmp_path / "touched", tmp_path / "model.pth"
    content = {"format": "compress-checkpoint-1", "state": Payload(target)}
    if kind.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=0 if kind == "raw text" else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    for command in (["export", path], ["quantize", path], ["bench", "--checkpoint", path, "--out", tmp_path / "o"]):
        assert str(path) in refused(*command)
    assert not target.exists()
    if kind != "raw":  # the weapon is real
        pickle.loads(pickle.dumps(content))
        assert target.exists()


def test_a_compressed_checkpoint_is_no_baseline(run: Run, refused: Refused, tmp_path: Path) -> None:
    for variant in ("avit", "avit_int8"):
        path = run.checkpoint(variant)
        sentence = refused("bench", "--checkpoint", path, "--out", tmp_path / "out")
        assert str(path) in sentence
        assert f"already {variant!r}" in sentence
    assert "already 'avit_int8'" in refused("quantize", run.checkpoint("avit_int8"))


def test_a_checkpoint_of_other_classes(run: Run, refused: Refused, tmp_path: Path) -> None:
    tree(tmp_path / "pets", {"cat": 12, "dog": 12})
    options = ("--data", f"folder:{tmp_path / 'pets'}")
    for command in (["export", run.checkpoint()], ["bench", "--checkpoint", run.checkpoint(), "--out", tmp_path / "o"]):
        sentence = refused(*command, *options)
        assert all(word in sentence for word in ("10 classes", "has 2", "cat", "--data")), sentence


def test_the_state_of_an_interrupted_training_is_damaged(
    run: Run, tiny: Path, refused: Refused, tmp_path: Path
) -> None:
    state = tmp_path / "models" / run.checkpoint().parent.name / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(cut(run.checkpoint().read_bytes()))
    sentence = refused("train", "--config", tiny, "--threads", 1, "--out", tmp_path, left=SETTINGS)
    assert f"{state} is damaged; remove it" in sentence


# --- images


def tree(root: Path, classes: dict[str, int]) -> None:
    """Class folders with that many small images each."""
    chance = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def one_class(root: Path) -> None:
    tree(root, {"cat": 2})


def no_image(root: Path) -> None:
    tree(root, {"cat": 2, "dog": 0})


def one_image(root: Path) -> None:
    tree(root, {"cat": 5, "dog": 1})


def train_only(root: Path) -> None:
    tree(root / "train", {"cat": 2, "dog": 2})


def different_classes(root: Path) -> None:
    tree(root / "train", {"cat": 2, "dog": 2})
    tree(root / "test", {"cat": 2, "cow": 2})


def last_image(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        tree(root, {"cat": 2, "dog": 2})
        path = root / "dog" / "1.png"
        path.write_bytes(change(path.read_bytes()))

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, ["holds 0 class folders", "at least two"]),
        (one_class, ["holds 1 class folders", "at least two"]),
        (no_image, ["dog", "holds no image", "remove the folder"]),
        (one_image, ["dog", "holds one image", "at least two"]),
        (train_only, ["only one of train/ and test/", "give both, or neither"]),
        (different_classes, ["different class folders: cow, dog"]),
        (last_image(cut), ["dog/1.png", "truncated", "repair or remove"]),
        (last_image(lambda raw: raw[:60] + bytes(20) + raw[80:]), ["dog/1.png", "repair or remove"]),
        (last_image(lambda _: b"no image at all"), ["dog/1.png", "repair or remove"]),
        (last_image(lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), ["dog/1.png", "repair or remove"]),
    ],
    ids=["empty", "one class", "no image", "one image", "no test", "different", "cut", "corrupt", "text", "postscript"],
)
def test_image_folders(
    make: Callable[[Path], None], words: list[str], tiny: Path, refused: Refused, tmp_path: Path
) -> None:
    root = tmp_path / "pets"
    make(root)
    sentence = refused("train", "--config", tiny, "--data", f"folder:{root}", "--out", tmp_path / "out")
    assert all(word in sentence for word in [str(root), *words]), sentence


def test_an_image_that_a_worker_process_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    last_image(cut)(tmp_path / "pets")
    with pytest.raises(
        InputError, match=r"^\S+1\.png is not a readable image [^\n]+; repair or remove it, or leave it out"
    ):
        sources.load(f"folder:{tmp_path / 'pets'}", (8, 8), 3)


# --- places that cannot be written, and rows that cannot be read


@pytest.mark.parametrize("command", ["bench", "train"])
def test_a_run_directory_that_cannot_be(command: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        sentence = refused(command, "--out", out)
        assert f"--out {out}" in sentence
        assert "choose another" in sentence


def test_an_export_that_cannot_be_written(run: Run, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "old.onnx").write_bytes(b"from before")
    with files_up_to(20_000):
        assert "old.onnx" in refused("export", run.checkpoint(), "--out", tmp_path / "old.onnx")


def test_a_disk_that_is_full_while_training_and_while_reporting(
    run: Run, tiny: Path, refused: Refused, tmp_path: Path
) -> None:
    with files_up_to(20_000):
        sentence = refused(
            "train", "--config", tiny, "--threads", 1, "--out", tmp_path / "out", left=("training.jsonl", *SETTINGS)
        )
    assert "state.pt" in sentence
    assert "free some space" in sentence
    assert [record["epoch"] for record in curves.read(next(tmp_path.rglob("training.jsonl")))] == [1]
    shutil.copytree(run.out, tmp_path / "run", ignore=shutil.ignore_patterns("models"))
    with files_up_to(5_000):
        assert "report.md" in refused("report", tmp_path / "run")


def test_a_row_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append(path, "first")
    with files_up_to(12), pytest.raises(InputError, match=r"rows\.jsonl could not be written"):
        files.append(path, "second, and long")
    assert path.read_text() == "first\n"
    path.write_text("first\ncut o")
    files.append(path, "second")
    assert path.read_text() == "first\nsecond\n"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_report_without_rows_or_with_a_broken_one(run: Run, refused: Refused, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"{folder} holds no rows.jsonl" in refused("report", folder)
    lines = (run.out / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join([lines[0], lines[1][:100] + "\n", *lines[2:]]))
    sentence = refused("report", tmp_path)
    assert "rows.jsonl:2" in sentence
    assert "remove the line" in sentence


def test_a_terminal_is_not_driven_by_names_from_a_file(run: Run, refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(changed(lambda c: c["classes"].__setitem__(0, "\x1b[2Jboo\nno"))(run.checkpoint().read_bytes()))
    assert "\x1b" not in refused("export", path)


def test_rows_that_are_no_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder/rows.jsonl").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/rows.jsonl")
    for name in ("folder", "pipe"):
        assert f"{name}/rows.jsonl is no file" in refused("report", tmp_path / name)
