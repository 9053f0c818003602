"""Files made with bad intent: each is refused with one sentence, runs nothing, takes little memory, leaves nothing."""

import argparse
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_bombs as bombs
import hostile_files as makers
import numpy as np
import pytest
import torch
from conftest import ROOT
from hostile_files import GIGABYTE, Call

from compress.checkpoints import checkpoint
from compress.cli import main
from compress.importers import Hints

MEMORY = 100 * 2**20  # bytes that reading a bomb may take
PATIENCE_S = 60  # before a file counts as one that hangs
CODE = "could run code when loaded, so it is refused; save its weights alone: torch.save(model.state_dict()"
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_hanging() -> Iterator[None]:
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must be refused, and gives its one sentence; no file may appear or change."""

    def check(*args: object) -> str:
        before = contents(tmp_path)
        assert main([str(arg) for arg in args]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("error: ")
        assert (err.count("\n"), "Traceback" in out + err) == (1, False)
        assert len(err) < 600
        assert contents(tmp_path) == before
        return err

    return check


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- files that would run code


class Odd(torch.nn.Linear):
    """A model of somebody's."""


def ours_with(payload: object, path: Path) -> bytes:
    """A checkpoint of compress with something more in it."""
    return makers.saved({**torch.load(makers.own(path), weights_only=True), "dataset": payload})


RUNS_CODE: dict[str, tuple[Callable[[Call, Path], bytes], str]] = {
    "zip": (lambda shell, _: makers.saved({"state": shell}), "(posix.system)"),
    "before 1.6": (lambda shell, _: makers.legacy({"state": shell}), "(posix.system)"),
    "ours": (ours_with, "(posix.system)"),
    "a pickle alone": (lambda shell, _: pickle.dumps(shell, protocol=2), "(posix.system)"),
    "eval": (lambda *_: makers.saved({"a": Call(eval, "1")}), "(builtins.eval)"),
    "a whole model": (lambda *_: makers.saved(Odd(2, 2)), "(test_hostile.Odd)"),
}


@pytest.mark.parametrize("kind", RUNS_CODE)
def test_files_that_would_run_code(kind: str, refused: Refused, tmp_path: Path) -> None:
    path, (make, named) = tmp_path / "model.pth", RUNS_CODE[kind]
    path.write_bytes(make(makers.shell(tmp_path / "canary"), path))
    for command in (["export", path], ["inspect", path], ["quantize", path, "--data", "digits"]):
        said = refused(*command)
        assert all(words in said for words in (CODE, named, str(path))), said
    assert not (tmp_path / "canary").exists()


def test_the_weapon_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(makers.shell(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_arrays_that_are_pickles(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(makers.arrays(head=np.array([makers.shell(tmp_path / "canary")], dtype=object)))
    assert "head is a pickle, which could run code" in refused("export", path)
    assert not (tmp_path / "canary").exists()


def test_options_of_a_training_are_only_values(tmp_path: Path) -> None:
    """The one class beside tensors: whatever is put into it, weights are all that is taken."""
    options = argparse.Namespace()
    vars(options).update({"__class__": "x", "__reduce__": 1, "_get_kwargs": None})
    path = tmp_path / "model.pth"
    path.write_bytes(makers.saved({**makers.training(makers.timm()), "args": options}))
    assert checkpoint.load(path, Hints(heads=2)).config == makers.CONFIG.model_copy(update={"norm_eps": 1e-6})


# --- files that ask for memory or time, and files that lie


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_files_that_lie(name: str, refused: Refused, tmp_path: Path) -> None:
    path = bombs.write(tmp_path, name)
    said = refused("inspect", path)
    assert all(words in said for words in (str(path), bombs.BOMBS[name][1])), said


MEASURED = """
import resource, sys
from compress.cli import main
main(["inspect", sys.argv[1]])  # whatever is imported late
for path in sys.argv[2:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(["inspect", path])
    print(code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, path)
"""


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    whole, paths = makers.own(tmp_path / "whole.pth"), [bombs.write(tmp_path, name) for name in bombs.BOMBS]

    def limited() -> None:  # so that a bomb that works does not take the machine with it
        resource.setrlimit(resource.RLIMIT_AS, (16 * GIGABYTE, 16 * GIGABYTE))

    command = [sys.executable, "-c", MEASURED, str(whole), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, preexec_fn=limited)
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("2 ")]
    assert [path for _, _, path in lines] == list(map(str, paths))
    assert {path: grown for _, grown, path in lines if int(grown) > MEMORY} == {}


# --- weights and settings that are not those of a model

HEAD = torch.zeros(3, 8)


def theirs(**changes: torch.Tensor | None) -> Callable[[Path], bytes]:
    return lambda _: makers.saved(makers.timm(**changes))


def ours(**changes: object) -> Callable[[Path], bytes]:
    return lambda path: makers.own(path, **changes).read_bytes()


def our_head(value: torch.Tensor) -> Callable[[Path], bytes]:
    return lambda path: makers.own(path, state={**makers.model().state_dict(), "head.weight": value}).read_bytes()


WEIGHTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "nan": (theirs(head__weight=HEAD + torch.nan), "head.weight holds values that are not finite"),
    "infinity": (theirs(norm__bias=torch.full((8,), torch.inf)), "norm.bias holds values that are not finite"),
    "missing": (theirs(norm__bias=None), "norm.bias"),
    "extra": (theirs(blocks__0__gate=HEAD), "it also holds blocks.0.gate"),
    "integers": (theirs(head__weight=HEAD.long()), "head.weight holds int64"),
    "complex": (theirs(head__weight=HEAD.to(torch.complex64)), "head.weight holds complex64"),
    "shape": (theirs(norm__bias=torch.zeros(5)), "norm.bias is 5"),
    "no names": (lambda _: makers.saved({0: HEAD, 1: HEAD}), "0 is no name of a weight"),
    "long name": (lambda _: makers.saved({"a" * 10**6: HEAD}), "is no name of a weight"),
    "our nan": (our_head(HEAD + torch.nan), "head.weight holds values that are not finite"),
    "our infinity": (our_head(HEAD - torch.inf), "head.weight holds values that are not finite"),
    "our integers": (our_head(HEAD.long()), "head.weight holds int64"),
    "our complex": (our_head(HEAD.to(torch.complex64)), "head.weight is no plain tensor"),
    "our mean": (ours(mean=(0.5, torch.nan, 0.5)), "no image can be normalized"),
    "our classes": (ours(classes=("a", "b", ["c"])), "where a name is expected"),
    "our methods": (ours(methods=({"name": "x" * 10**5},)), "where a name is expected"),
    "our origin": (ours(origin={"family": 1}), "damaged compress checkpoint"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_none(kind: str, refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(WEIGHTS[kind][0](path))
    said = refused("inspect", path, "--heads", 2)
    assert all(words in said for words in (str(path), WEIGHTS[kind][1])), said


TEXTS = {
    "tables": '{"a": ' * 10**5,
    "infinite": '{"image_size": 1e999}',
    "nan": '{"hidden_size": NaN}',
    "digits": '{"hidden_size": 1' + "0" * 5000 + "}",
    "large": '{"hidden_size": 1' + "0" * 30 + "}",
    "long": '{"hidden_act": "' + "x" * 10**5 + '"}',
    "no table": "[1]",
    "no text": "\udcff",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_settings_that_are_none(kind: str, refused: Refused, tmp_path: Path) -> None:
    folder = makers.folder(tmp_path / "model")
    (folder / "config.json").write_text(TEXTS[kind], errors="surrogateescape")
    assert f"{folder / 'config.json'} is not readable JSON" in refused("inspect", folder)


def test_what_is_no_file(refused: Refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "nowhere.pth").symlink_to(tmp_path / "nowhere")
    assert "pipe.pth is no file" in refused("inspect", tmp_path / "pipe.pth")
    assert "there is no such file" in refused("inspect", tmp_path / "nowhere.pth")
    assert "cannot be read" in refused("inspect", tmp_path / ("a" * 300))


# --- what is unusual and whole


def test_a_folder_whose_files_are_links(tmp_path: Path) -> None:
    """As the cache of Hugging Face keeps them."""
    folder, links = makers.folder(tmp_path / "blobs"), tmp_path / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    assert checkpoint.load(links).classes == makers.CLASSES


def test_arrays_of_bfloat16(tmp_path: Path) -> None:
    """numpy has no such numbers: files of Flax hold two bytes without a name."""
    state = makers.timm()
    raw = {name: value.bfloat16().view(torch.int16).numpy().view("V2") for name, value in state.items()}
    (tmp_path / "model.npz").write_bytes(makers.arrays(**raw))
    found = checkpoint.load(tmp_path / "model.npz", Hints(heads=2))
    assert found.origin is not None
    assert found.origin["numbers"] == "bf16"
    assert torch.equal(found.state["head.weight"], state["head.weight"].bfloat16().float())


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(makers.saved({"state": makers.shell(tmp_path / "canary")}))
    command = [sys.executable, "-W", "error:::compress", "-m", "compress", "export", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path} holds more than weights")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_list_of_storages_that_holds_other_things_than_names(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    path.write_bytes(makers.old_pickles({"a": 1}, ["a", 1, None], b""))  # type: ignore[list-item]
    assert "old.pth is cut short or damaged" in refused("inspect", path)
