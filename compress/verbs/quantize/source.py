"""A float model, and the file that each recipe makes of it."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.data import Data
from baselines.vit import VisionTransformer
from compress import files, loading, runtimes, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.evaluate import Candidate, describe_variant
from compress.evaluate.candidate import warn_of_few_images
from compress.exporters.onnx import make_metadata
from compress.measure.cost import Cost
from compress.methods import Bf16, Method
from compress.runtimes import BuildInputs
from compress.runtimes.graph_files import relabel
from compress.training import finetuning
from compress.training.data import sample_parity_images
from compress.variant import Variant
from compress.verbs.quantize.recipes import FLOAT, Recipe

CPU = torch.device("cpu")
FEW = 32  # images that calibrate and check what is only timed
CALIBRATED, WHOLE = "calibrated_", ".whole"  # begins and ends names of files: a model; what says that an artifact is so


@dataclass
class Source:
    """What all recipes begin with; `folder` takes their files."""

    model: Classifier
    which: Variant
    content: Checkpoint
    data: Data
    calibration: list[Tensor]
    calibrated_on: dict[str, Any]  # what is kept of those images in a file
    folder: Path
    device: torch.device = CPU  # where models are calibrated
    calibrated: dict[str, Classifier] = field(default_factory=dict)  # by settings
    parity: Tensor | None = None
    tested: int = 0  # test images that judged layers, and are not scored again
    graphs: dict[tuple[str, str], Path] = field(default_factory=dict)  # that engines share
    shortened: dict[int, "Source"] = field(default_factory=dict)  # by number of blocks

    def calibrate(self, method: Method) -> Classifier:
        """The model with a method applied and calibrated, not converted."""
        key = identify(method)
        if key not in self.calibrated and not self.find_calibrated(method):
            model = variant.prepare(self.model, [method]).to(self.device)
            model = finetuning.calibrate(model, [method], self.calibration, self.device)
            self.keep_calibrated(method, model.to(CPU))
        return self.calibrated[key]

    def find_calibrated(self, method: Method) -> Classifier | None:
        """A calibrated model that an earlier run left in the folder, if it did."""
        path = self._locate_calibrated(method)
        if not path.exists():
            return None
        self.calibrated[identify(method)] = model = loading.restore(path)[0]
        return model

    def keep_calibrated(self, method: Method, model: Classifier) -> None:
        """Takes a calibrated model for all recipes, and writes it where an interruption does not lose it."""
        self.calibrated[identify(method)] = model
        if isinstance(model, VisionTransformer):  # the code of others is not to be named for a file of this command
            methods = [*self.which.methods, method]
            checkpoint.save(
                self._locate_calibrated(method), loading.pack(model, methods, self.data, self.content.config)
            )

    def _locate_calibrated(self, method: Method) -> Path:
        return self.folder / f"{CALIBRATED}{files.key(identify(method))}.pth"

    def locate(self, recipe: Recipe) -> Path:
        """Where the file of a recipe lies, or would."""
        return self.folder / f"{''.join(c if c.isalnum() else '_' for c in recipe.name)}{recipe.runtime.suffix}"

    def is_built(self, recipe: Recipe) -> bool:
        """Whether the whole file of a recipe is there, perhaps of an earlier run that was interrupted."""
        path = self.locate(recipe)
        return path.exists() and path.with_name(path.name + WHOLE).exists()

    def build(self, recipe: Recipe) -> Path:
        """Writes the file of a recipe; raises RuntimeError where that fails."""
        path, graph = self.locate(recipe), self._identify_graph(recipe)
        if not self.is_built(recipe):
            self._write(recipe, path, graph)
            files.write(path.with_name(path.name + WHOLE), "")
        if not runtimes.is_checkpoint(path):
            self.graphs.setdefault(graph, path)
        return path

    def _write(self, recipe: Recipe, path: Path, graph: tuple[str, str]) -> None:
        method = recipe.method
        whole = replace(self.which, methods=(*self.which.methods, *([method] if method else [])))
        model = self.model if method is None else self.calibrate(method)
        seen = self.calibrated_on if method else self.content.calibration
        content = loading.pack(model, whole.methods, self.data, self.content.config, calibration=seen)
        if graph in self.graphs:
            relabel(self.graphs[graph], path, make_metadata(content))
        else:
            recipe.runtime.build(BuildInputs(model, whole, content, self.parity_images, self.calibration), path)

    def _identify_graph(self, recipe: Recipe) -> tuple[str, str]:
        """The same for recipes whose files differ in their metadata alone, which hold the fallback dtype.

        Of other architectures than ours each engine makes integers on its own.
        """
        if recipe.method is None or isinstance(recipe.method, Bf16):
            return recipe.runtime.suffix, FLOAT
        ours = isinstance(self.model, VisionTransformer)
        return recipe.runtime.suffix if ours else recipe.runtime.name, identify(recipe.method)

    @property
    def parity_images(self) -> Tensor:
        """Training images for the check of an exported graph, decoded once."""
        if self.parity is None:
            self.parity = sample_parity_images(self.data)
        return self.parity

    def make_candidates(self, recipes: list[Recipe], cost: Callable[[], Cost]) -> list[Candidate]:
        """One for each recipe, in their order."""
        digest = checkpoint.hash_state(self.content.state)
        return [self._make_candidate(recipe, digest, cost) for recipe in recipes]

    def _make_candidate(self, recipe: Recipe, digest: str, cost: Callable[[], Cost] | None) -> Candidate:
        methods = [] if recipe.method is None else [recipe.method]
        whole = replace(self.which, methods=(*self.which.methods, *methods))
        facts: dict[str, Any] = {**describe_variant(whole), "dense": recipe.method is None}
        return Candidate(
            **facts,
            runtime=recipe.runtime,
            recipe=recipe.label,
            build=partial(self.build, recipe),
            built=partial(self.is_built, recipe),
            key=files.key(digest, recipe.name, whole.describe(), self.calibrated_on),
            cost=cost,
            notes=warn_of_few_images(whole, self.calibrated_on["images"]),
            shallow=partial(self._shorten, recipe) if isinstance(self.model, VisionTransformer) else None,
        )

    def _shorten(self, recipe: Recipe, blocks: int) -> Candidate:
        """The same recipe for a model of so many blocks."""
        if blocks not in self.shortened:  # once for all recipes, which share what is calibrated
            assert isinstance(self.model, VisionTransformer)
            model = keep_blocks(self.model, blocks)
            folder = self.folder / f"{blocks}_blocks"
            folder.mkdir(exist_ok=True)
            content = replace(self.content, config=model.config, state=model.state_dict())
            few: dict[str, Any] = {"calibration": [self.calibration[0][:FEW]], "parity": self.parity_images[:FEW]}
            fresh: dict[str, Any] = {"folder": folder, "calibrated": {}, "graphs": {}, "shortened": {}}
            self.shortened[blocks] = replace(self, model=model, content=content, **few, **fresh)
        return replace(self.shortened[blocks]._make_candidate(recipe, "", None), shallow=None)


def keep_blocks(model: VisionTransformer, blocks: int) -> VisionTransformer:
    """A copy with its first blocks alone; token methods keep the places that are left."""
    short = copy.deepcopy(model)
    sizes = (model.config.block_sizes or ())[:blocks] or None
    short.config = model.config.model_copy(update={"depth": blocks, "block_sizes": sizes})
    short.encoder.blocks = nn.ModuleList(list(short.encoder.blocks)[:blocks])
    return short


def identify(method: Method) -> str:
    """The same for methods that give the same model: `fallback_dtype` is for the engine alone."""
    return f"{method.name} {json.dumps(method.model_dump(mode='json', exclude={'fallback_dtype'}))}"
