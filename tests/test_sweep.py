"""Sweeps: what a file may ask for, a list of work that processes share, and the report."""

import contextlib
import csv
import io
import os
import re
import sqlite3
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import ROOT
from pydantic import ValidationError

from baselines.errors import InputError
from compress.ranges import Range, suggest
from compress.storage import open_storage
from compress.sweep import queue, settings
from compress.sweep.queue import Queue, Taken
from compress.sweep.settings import Sweep
from reports.sweep import Report, Trial, render

TINY = """\
[model]
patch_size = 4
depth = 1
mlp_dim = 16
[train]
epochs = 2
batch_size = 256
"""
GRID = '[sweep.space]\n"model.dim" = [8, 12]\n"model.heads" = [2, 8]\n'
DRAWS = """\
trials = {}
[sweep.space]
model.depth = {{low = 1, high = 6}}
train.lr = {{low = 1e-5, high = 1.0, log = true}}
"""


def made(folder: Path, plan: str, tables: str = TINY) -> Sweep:
    path = folder / "made.toml"
    path.write_text(tables + plan)
    return settings.read(path)


# --- the file


def test_the_sweeps_of_the_repository_load_and_open_with_their_command() -> None:
    for path in ROOT.glob("configs/sweeps/*.toml"):
        sweep = settings.read(path)
        assert len(sweep.plan.slots()) > 1
        header = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        assert any(f"compress sweep {path.relative_to(ROOT)}" in line for line in header)


def test_a_point_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seed = 3\n" + TINY)
    plan = '[sweep]\nmlp_ratio = 1.5\n[sweep.space]\nmodel.dim = [8, 12]\n"train.lr" = [0.5]\nseed = [7]\n'
    sweep = made(tmp_path, plan, 'base = "base.toml"\n')
    assert list(sweep.plan.slots().values()) == [{"model.dim": d, "train.lr": 0.5, "seed": 7} for d in (8, 12)]
    config = sweep.at({"model.dim": 12, "train.lr": 0.5, "seed": 7})
    assert (config.model.dim, config.model.mlp_dim, config.train.lr, config.seed) == (12, 18, 0.5, 7)
    assert (config.train.epochs, config.model.patch_size, config.train.validation) == (2, 4, settings.VALIDATION)
    assert sweep.base.seed == 3


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("", "'space'"),
        ('[sweep]\nsampler = "best"\n' + GRID, "'sampler' should be"),
        ("[sweep]\ntrails = 3\n" + GRID, "did you mean 'trials'"),
        ("[sweep]\ntrials = 3\n" + GRID, "remove trials"),
        ('[sweep]\nsampler = "tpe"\n' + GRID, "set trials"),
        ("[sweep]\nmlp_ratio = 4\n[sweep.space]\nmodel.mlp_dim = [8, 16]\n", "both set mlp_dim"),
        ("[sweep.space]\nmodel.dim = []\n", "neither a list of values nor"),
        ("[sweep.space]\nmodel.dim = [[8]]\n", "may hold only numbers"),
        ("[sweep.space]\nmodel.dim = {low = 8, high = 16}\n", "a grid needs lists"),
        ("[sweep.space]\nmodel.dim = {low = 8, high = 8}\n", "low 8 is not below high 8"),
        ("[sweep.space]\nmodel.dims = [8]\n", "did you mean 'model.dim'"),
        ("[sweep.space]\nmodel.dim = [8, 'wide']\n", "'model.dim' should be a valid integer"),
        ("[sweep.space]\nmodel.dim = [8, -8]\n", "'model.dim' should be greater than 0"),
        ("[sweep.space]\ntrain.validation = [0.1]\n", "the same images"),
        ("validation = 0\n" + GRID, "validation is 0"),
        (f"[sweep.space]\nseed = {list(range(60))}\nmodel.dim = {list(range(8, 80))}\n", "4,320 points"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(plan: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as error:
        made(tmp_path, plan)
    assert str(error.value).startswith(str(tmp_path / "made.toml"))
    assert "\n" not in str(error.value)


# --- the list of work


def join(sweep: Sweep, where: Path, place: str = "here", held: bool = False) -> Queue:
    return Queue(sweep, open_storage(str(where)), "key", place, lambda _: held)


def finish(taken: Taken, top1: float = 0.5, **found: Any) -> None:
    taken.done({"top1": top1, "macs_per_image": 10, **found})


@pytest.mark.parametrize("name", ["sweep.db", "sweep.log"])
def test_two_processes_do_every_slot_once(name: str, tmp_path: Path) -> None:
    sweep = made(tmp_path, GRID)
    first, second = (join(sweep, tmp_path / name, place, held=True) for place in ("here", "there"))
    points = []
    for one, other in zip(first.take(), second.take(), strict=True):  # two of four each, in turns
        for taken in (one, other):
            taken.begin("elsewhere", "key")
            finish(taken)
            points.append(taken.point)
    assert points == list(sweep.plan.slots().values())
    assert [trial.state for trial in first.trials()] == ["done"] * 4
    assert list(join(sweep, tmp_path / name).take()) == []


def test_slots_that_were_laid_out_twice_are_done_once(tmp_path: Path) -> None:
    """As by two processes that begin in the same moment."""
    sweep = made(tmp_path, GRID)
    queues = [join(sweep, tmp_path / "sweep.db") for _ in range(2)]
    for slot, point in sweep.plan.slots().items():
        for each in queues:
            each.study.enqueue_trial(point, user_attrs={"slot": slot})
    done = []
    for taken in queues[0].take():
        finish(taken)
        done.append(taken.number)
    assert done == [1, 2, 3, 4]


def test_what_a_dead_process_left_is_done_again_with_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = made(tmp_path, "[sweep]\nsampler = 'random'\n" + DRAWS.format(2))
    where = tmp_path / "sweep.log"
    lost = next(join(sweep, where).take())
    lost.begin("here", "key")
    assert [taken.number for taken in islice(join(sweep, where, held=True).take(), 1)] == [2]  # 1 is alive

    (again,) = list(islice(join(sweep, where).take(), 1))  # in the same place, where nobody holds the lock
    assert (again.number, again.point) == (1, lost.point)
    finish(lost, top1=0.1)  # it was not dead after all: what comes too late does not count
    again.begin("there", "key")
    assert not [taken for taken in join(sweep, where, "elsewhere").take() if taken.number == 1]
    monkeypatch.setattr(queue, "STALE_S", -1.0)
    (third,) = list(islice(join(sweep, where, "elsewhere").take(), 1))
    assert (third.number, third.point) == (1, lost.point)
    finish(third, top1=0.9)
    assert join(sweep, where).trials()[0].top1 == 0.9


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_draws_do_not_depend_on_who_takes_them_and_more_can_be_asked_for(sampler: str, tmp_path: Path) -> None:
    def drawn(count: int, where: Path, processes: int) -> list[dict[str, Any]]:
        sweep = made(tmp_path, f"[sweep]\nsampler = '{sampler}'\n" + DRAWS.format(count))
        for _ in range(processes):
            for taken in islice(join(sweep, where).take(), -(-count // processes)):
                finish(taken, top1=taken.point["model.depth"] / 10)
        return [trial.point for trial in join(sweep, where).trials()]

    alone = drawn(14, tmp_path / "alone.log", 1)
    assert len({point["train.lr"] for point in alone}) == 14
    assert all(point["model.depth"] in range(1, 7) and 1e-5 <= point["train.lr"] <= 1 for point in alone)
    assert drawn(14, tmp_path / "shared.log", 2) == alone
    assert drawn(16, tmp_path / "alone.log", 1)[:14] == alone


def test_a_database_that_is_none_is_refused_without_its_password(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database, whatever its name says, and long enough to be looked at " * 20)
    with pytest.raises(InputError, match=r"--storage .*broken\.db cannot be used \(file is not a database\)"):
        open_storage(str(broken))
    with pytest.raises(InputError, match=r"--storage nothing://me:\*\*\*@host/x cannot be used"):
        open_storage("nothing://me:secret@host/x")


# --- the report


def made_report() -> Report:
    done = [(8, 0.5, 40), (16, 0.9, 20), (32, 0.9, 30), (64, 0.4, 10), (128, 0.95, 60)]
    trials = [
        Trial(i + 1, "done", {"model.dim": dim, "train.lr": 1e-3}, top1, top1 - 0.06, top1 + 0.04, 100, cost, 7, 1.0, 9)
        for i, (dim, top1, cost) in enumerate(done)
    ]
    trials += [Trial(6, "impossible", {"model.dim": 9, "train.lr": 1e-3}, reason="heads | do not divide")]
    trials += [Trial(7, "failed", {"model.dim": 8, "train.lr": 1e3}, reason="the loss became nan")]
    return Report("made", "digits", "grid", ("model.dim", "train.lr"), (*trials, Trial(8, "waiting", {})))


def test_the_report_sorts_and_marks_what_nothing_beats() -> None:
    made = render(made_report())
    assert made["sweep.png"].startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO(made["sweep.csv"].decode())))
    assert [row["model.dim"] for row in rows] == ["128", "16", "32", "8", "64", "9", "8", ""]
    assert [row["model.dim"] for row in rows if row["pareto"] == "1"] == ["128", "16", "64"]
    assert (rows[0]["top1"], rows[0]["macs_per_image"], rows[5]["top1"]) == ("0.95", "60", "")
    page = made["sweep.md"].decode()
    assert "8 trials on digits, grid: 5 done, 1 impossible, 1 failed, 1 still to do." in page
    assert "2 other trials lie within the interval of the best" in page
    assert "impossible: heads &#124; do not divide" in page
    assert "failed: the loss became nan" in page


def test_a_sweep_of_which_nothing_is_done_has_a_page_and_no_plot() -> None:
    report = made_report()
    assert render(Report("made", "digits", "grid", report.settings, report.trials[5:])).keys() == {
        "sweep.md",
        "sweep.csv",
    }


def test_texts_and_ranges_can_be_drawn() -> None:
    trials = tuple(
        Trial(i, "done", {"train.lr": 10.0**-i, "train.schedule": f"kind {i}"}, i / 20, 0.0, 1.0, 9, i, 7, 1.0, 9)
        for i in range(1, 13)
    )
    assert "sweep.png" in render(Report("made", "digits", "tpe", ("train.lr", "train.schedule"), trials))


def test_a_trial_that_was_taken_and_never_begun_is_free_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, where = made(tmp_path, GRID), tmp_path / "sweep.db"
    next(join(sweep, where).take())  # its process is killed now
    for patience, numbers in ((60.0, [2, 3, 4]), (-1.0, [1])):
        monkeypatch.setattr(queue, "BEGIN_S", patience)
        done = []
        for taken in join(sweep, where, held=True).take():
            taken.begin("here", "key")
            finish(taken)
            done.append(taken.number)
        assert done == numbers


@pytest.mark.parametrize("content", ['{"hello": 1}\n', "INFO started", "[]\n\n", "\n"])
def test_a_journal_of_another_program_is_refused_and_stays_as_it_is(content: str, tmp_path: Path) -> None:
    (path := tmp_path / "service.log").write_text(content)
    with pytest.raises(InputError, match="line 1 is not an entry of an Optuna journal"):
        open_storage(str(path))
    assert path.read_text() == content


def test_a_database_of_another_program_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path := tmp_path / "shop.db")) as shop:
        shop.execute("CREATE TABLE orders (id INTEGER)")
        shop.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match="the database of another program, with the table 'orders'"):
        open_storage(str(path))
    assert path.read_bytes() == before


def test_a_pipe_is_no_storage(tmp_path: Path) -> None:
    for name in ("a.log", "a.db"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="it is not a file"):
            open_storage(str(tmp_path / name))


def test_a_step_is_followed_or_refused() -> None:
    study = optuna.create_study()
    drawn = {suggest(study.ask(), "depth", Range(low=2, high=8, step=3)) for _ in range(20)}
    assert drawn <= {2, 5, 8}
    for wrong in ({"low": 1, "high": 8, "step": 0.5}, {"low": 0.1, "high": 0.9, "step": 0.1, "log": True}):
        with pytest.raises(ValidationError, match="step"):
            Range(**wrong)
