"""The artifact store: what is there is not made again, and what is to be made anew goes alone."""

from pathlib import Path

import pytest

from baselines.distributed import World
from compress import files
from compress.training.store import ArtifactStore


def test_a_file_is_made_once_and_again_when_it_was_discarded(tmp_path: Path) -> None:
    store, made = ArtifactStore(tmp_path), []

    def make(path: Path) -> None:
        made.append(path)
        files.write(path, "whole")

    path, other = (store.place("vit", key, "model.pth") for key in ("a1", "b2"))
    for each in (path, path, other):
        assert store.get_or_make(each, make).read_text() == "whole"
    state = path.with_name("state.pt")
    state.write_text("begun")
    store.discard(path, whole=False)
    assert (path.exists(), state.exists()) == (True, False)
    store.discard(path, whole=True)
    store.get_or_make(path, make)
    assert made == [path, other, path]


def test_what_could_not_be_made_is_made_the_next_time(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    path = store.place("vit", "a1", "model.pth")
    with pytest.raises(ZeroDivisionError):
        store.get_or_make(path, lambda path: files.write(path, str(1 / 0)))
    assert store.get_or_make(path, lambda path: files.write(path, "whole")).read_text() == "whole"


def test_only_the_first_process_publishes(tmp_path: Path) -> None:
    source = tmp_path / "model.pth"
    source.write_text("new")
    assert not ArtifactStore(tmp_path, World(1, 2)).publish(source, "best.pth").exists()
    assert ArtifactStore(tmp_path).publish(source, "best.pth").read_text() == "new"
