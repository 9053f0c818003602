"""Does `compress search` find what an exhaustive measurement finds, in a fifth of the trials?

    python benchmarks/search.py CHECKPOINT --data folder:PATH --out OUT

Measures every point of a small space once: two token methods, about five amounts each, all numbers in three engines.
Then a search runs on these figures, with several seeds and a share of the trials, and random search beside it. What
counts is the hypervolume of the front of loss and latency, as a share of that of all points. The reference point is the
largest loss that counts and the latency of the dense model in PyTorch fp32. OUT/search.json holds all figures; what was
measured before is found again.
"""

import argparse
import json
import random
import statistics
from dataclasses import asdict
from pathlib import Path

import torch
from optuna.storages import InMemoryStorage
from rich.console import Console

from baselines.vit import VisionTransformer
from compress import files
from compress.evaluate import take_test_images
from compress.methods import METHODS
from compress.ranges import Range
from compress.verbs import search
from compress.verbs.search.choice import Trial
from compress.verbs.search.lowerings import list_engines
from compress.verbs.search.measuring import Measuring
from compress.verbs.search.request import Request
from compress.verbs.search.space import Space, identify, make_space
from compress.verbs.search.trials import Trials
from compress.verbs.search.wishes import Figures, Wishes

TOKENS = ("topk", "tome")
TOGETHER = 4  # points that are timed in turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--runtimes", default="torch,onnxruntime,openvino")
    parser.add_argument("--methods", default="topk,tome,int8,bf16")
    parser.add_argument("--thin", type=int, default=2, help="every how many amounts of a token method count")
    parser.add_argument("--most-lost", type=float, default=5.0, help="points of top-1")
    parser.add_argument("--share", type=float, default=0.2, help="of the points that a search may try")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for name in TOKENS:
        METHODS[name].ranges = {key: thin(each, args.thin) for key, each in (METHODS[name].ranges or {}).items()}
        METHODS[name].refinement = {}  # which is no point of the space
    wishes = Wishes(max_drop=args.most_lost / 100)
    request = Request(
        path=args.checkpoint, wishes=wishes, data=args.data, threads=args.threads, seconds=args.seconds, out=args.out,
        runtimes=tuple(args.runtimes.split(",")), methods=tuple(args.methods.split(",")), held_out=args.held_out,
    )  # fmt: skip
    console = Console(soft_wrap=True, highlight=False)
    space, known = measure_all(request, console)
    everything = [figures for figures in known.values() if figures is not None]
    budget = round(args.share * len(known))
    whole = find_hypervolume(everything, wishes)
    shares: dict[str, list[float]] = {"search": [], "random": []}
    for seed in range(args.seeds):
        searched, drawn = simulate(space, known, wishes, budget, seed), draw(known, budget, seed)
        shares["search"].append(find_hypervolume(searched, wishes) / whole)
        shares["random"].append(find_hypervolume(drawn, wishes) / whole)
    console.print(f"{len(known)} points, {len(known) - len(everything)} of them impossible; {budget} trials")
    for name, values in shares.items():
        told = " ".join(f"{value:.1%}" for value in values)
        console.print(f"{name}: {told} of the hypervolume; median {statistics.median(values):.1%}")
    result = {"points": len(known), "budget": budget, "shares": shares}
    result["figures"] = {name: figures and asdict(figures) for name, figures in known.items()}
    files.write(args.out / "search.json", json.dumps(result, indent=1))


def thin(choices: object, every: int) -> Range:
    """A range with fewer values."""
    assert isinstance(choices, Range)
    assert choices.step is not None
    values = choices.list_values()[::every]
    return Range(low=values[0], high=values[-1], step=every * choices.step)


def measure_all(request: Request, console: Console) -> tuple[Space, dict[str, Figures | None]]:
    """Every point once, as a search measures it, but all held-out images for each; None for what is impossible."""
    torch.set_num_threads(request.threads)
    files.writable_folder(request.out or Path())
    settings, run, held, _ = search.open_search(request, console)
    assert run.start is not None
    assert isinstance(run.start[0], VisionTransformer)
    engines = list_engines(request.runtimes, request.device)
    space = make_space(run.start[0], settings.methods, engines, 0, request.methods)
    images = take_test_images(held.data, request.held_out)
    measuring = Measuring(run, space, images, search.make_options(request, run), Wishes(max_drop=1.0))
    kept = request.folder / "figures.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    waiting = [point for point in space.list_points() if identify(point) not in known]
    for first in range(0, len(waiting), TOGETHER):
        for each in measuring.measure(waiting[first : first + TOGETHER], []):
            known[identify(each.point)] = each.figures and asdict(each.figures)
        files.write(kept, json.dumps(known))
        console.print(f"{len(known)} of {len(known) + len(waiting[first + TOGETHER :])} points measured")
    return space, {name: Figures(**told) if told else None for name, told in known.items()}


def simulate(space: Space, known: dict[str, Figures | None], wishes: Wishes, budget: int, seed: int) -> list[Figures]:
    """What a search finds where a trial gives figures that are known."""
    trials, found = Trials(InMemoryStorage(), "simulated", space, 1000 * seed), []
    while len(found) < budget and (taken := trials.take(min(TOGETHER, budget - len(found)), wishes)):
        for each in taken:
            figures = known[identify(each.point)]
            each.finish(Trial(each.point, figures, reason=None if figures else "impossible"))
            found.append(figures)
    return [figures for figures in found if figures is not None]


def draw(known: dict[str, Figures | None], budget: int, seed: int) -> list[Figures]:
    """What random search finds."""
    drawn = random.Random(seed).sample(list(known.values()), budget)
    return [figures for figures in drawn if figures is not None]


def find_hypervolume(found: list[Figures], wishes: Wishes) -> float:
    """Area between the front of (loss, time as a share of the dense model's) and the reference point."""
    most, area, slowest = wishes.max_drop or 1.0, 0.0, 1.0
    points = sorted((each.drop, 1 / each.speedup) for each in found)
    for drop, time in points:  # from the least loss on: each faster one adds a rectangle
        if drop < most and time < slowest:
            area += (most - drop) * (slowest - time)
            slowest = time
    return area


if __name__ == "__main__":
    main()
