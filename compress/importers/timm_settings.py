"""What `config.json` says of a model of timm, and names and shapes of its weights do not tell.

    architecture  global_pool  label_names  model_args  pretrained_cfg (mean, std, input_size)

As `timm.models.save_for_hf` writes it, now and before there was `pretrained_cfg`, and `TimmWrapper` of transformers.
`model_args` is what differs from the architecture of that name; timm notes it since 1.0.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError, model_validator

from baselines.errors import InputError
from baselines.resizing import Resizing
from compress import files
from compress.importers.base import UNKNOWN
from compress.importers.preprocessing import read_timm
from compress.importers.weights import Weights

# Width and heads of what timm registers, by the word behind vit_, deit_, deit3_, eva_ or flexivit_, or by all of it
REGISTERED = {
    "vit_base_patch16_gap_224": (768, 16),
    "tiny": (192, 3),
    "xsmall": (256, 4),
    "wee": (256, 4),
    "little": (320, 5),
    "small": (384, 6),
    "medium": (512, 8),
    "mediumd": (512, 8),
    "betwixt": (640, 10),
    "base": (768, 12),
    "so150m2": (832, 13),
    "so150m": (896, 14),
    "plus": (896, 14),
    "large": (1024, 16),
    "so400m": (1152, 16),
    "huge": (1280, 16),
    "giant": (1408, 16),
    "giantopt": (1536, 16),
    "gigantic": (1664, 16),
}
TANH = r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip|vit_large_patch16_siglip_(gap_)?512"
UNSUPPORTED = {  # part of an architecture's name: what weights do not show of it
    "quickgelu": "QuickGELU as its activation",
    "_rpn_": "norms behind attention and MLP",
    "rope": "rotary positions",
}
NORMS = (None, "", "layernorm", "layernormfp32")
ACTIVATIONS: dict[str | None, Literal["gelu", "gelu_tanh"]] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}


class _Lax(BaseModel):
    """A part of the file: all of it may be missing or null, and the rest is no concern of ours."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        return (
            {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class Arguments(_Lax):
    num_heads: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    img_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None  # height, width
    global_pool: str = ""
    pool_include_prefix: bool = False
    act_layer: str | None = None
    norm_layer: str | None = None
    pos_embed: str = "learn"
    no_embed_class: bool | None = None


class Preprocessing(_Lax):
    input_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # channels, height, width
    mean: tuple[FiniteFloat, ...] = ()
    std: tuple[FiniteFloat, ...] = ()
    crop_pct: Annotated[float, Field(gt=0, le=4)] | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    label_names: list[Any] | dict[str, Any] = Field(default_factory=list)


class Settings(_Lax):
    """What `config.json` says; says nothing where there is no such file."""

    architecture: str = ""
    global_pool: str = ""
    label_names: list[Any] | dict[str, Any] = Field(default_factory=list)  # or {number: name}
    model_args: Arguments = Arguments()
    pretrained_cfg: Preprocessing = Preprocessing()

    @property
    def pool(self) -> str:
        """`token`, `avg` or one of those that compress has not; empty where nobody says."""
        return self.model_args.global_pool or self.global_pool

    @property
    def image_size(self) -> tuple[int, int] | None:
        size = self.model_args.img_size
        if size is None:
            return self.pretrained_cfg.input_size and self.pretrained_cfg.input_size[1:]
        return (size, size) if isinstance(size, int) else size

    @property
    def activation(self) -> Literal["gelu", "gelu_tanh"]:
        given = self.model_args.act_layer
        return ACTIVATIONS[given] if given else "gelu_tanh" if re.match(TANH, self.architecture) else "gelu"

    def eps(self, *, pre_norm: bool) -> float:
        """Epsilon of all norms: 1e-6, but for CLIP, whose models have a norm in front."""
        return 1e-5 if ("clip" in self.architecture if self.architecture else pre_norm) else 1e-6

    def heads(self, dim: int) -> int | None:
        """Number of heads; None where nobody says."""
        words = self.architecture.split("_")
        names = self.architecture, "plus" if "plus" in words else "".join(words[1:2])
        width, registered = next((REGISTERED[name] for name in names if name in REGISTERED), (None, None))
        ours = dim == width or self.model_args.embed_dim is not None  # what it says is all that differs
        return self.model_args.num_heads or (registered if ours else None)

    def normalization(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel; empty where the file has none of so many channels."""
        mean, std = self.pretrained_cfg.mean, self.pretrained_cfg.std
        return (mean, std) if len(mean) == len(std) == channels and min(std) > 0 else ((), ())

    def resizing(self, image_size: tuple[int, int]) -> Resizing | None:
        """As timm resizes and crops for a model of that image size; None where there is no pretrained_cfg."""
        said = self.pretrained_cfg
        return read_timm(said, image_size, said.mean) if said.model_fields_set - {"label_names"} else None

    def find_unknown(self) -> str | None:
        """What such a model has that compress has not, and weights do not show."""
        given = self.model_args
        if self.pool not in ("", "token", "avg"):
            return f"global_pool {self.pool!r}"
        if given.act_layer and given.act_layer not in ACTIVATIONS:
            return f"act_layer {given.act_layer!r}"
        if given.norm_layer not in NORMS:
            return f"norm_layer {given.norm_layer!r}"
        named = {part: what for part, what in UNSUPPORTED.items() if part in self.architecture}
        if given.act_layer:
            named.pop("quickgelu", None)
        return next(iter(named.values()), None)


def read_settings(weights: Weights) -> Settings:
    """Raises InputError where the file says what cannot be."""
    raw = weights.content.settings
    if raw and not isinstance(raw.get("pretrained_cfg"), dict):
        raw = {**raw, "pretrained_cfg": {**raw, "label_names": raw.get("labels")}}  # as it was: all in one table
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise files.explain(error, f"config.json of {weights.path}") from error


def read_class_names(weights: Weights, settings: Settings, number: int) -> tuple[str, ...]:
    """Names of the classes, in the order of the head; empty where the file has none.

    Raises:
        InputError: there are as many names as the head has no classes.
    """
    names = settings.label_names or settings.pretrained_cfg.label_names
    if isinstance(names, dict):
        return tuple(str(names.get(str(i), i)) for i in range(number))
    if names and len(names) != number:
        raise weights.error(f"config.json names {len(names)} classes, and its head tells {number} apart")
    return tuple(map(str, names))


def unknown_part(weights: Weights, what: str) -> InputError:
    """The sentence for a model of which compress has not all parts."""
    return InputError(f"{weights.path} has {what}; {UNKNOWN}")
