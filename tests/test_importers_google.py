"""The npz files of google-research/vision_transformer: the same answers, and one sentence for what is no such ViT."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_models import EXACT, converted, difference, images, ours
from torch import Tensor

from baselines.errors import InputError
from compress.importers import Hints, ImportedModel

Arrays = dict[str, Any]
HALVES = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
LINEN = {"Attention_1/": "Attention_0/", "LayerNorm_2/": "LayerNorm_1/", "MlpBlock_3/": "MlpBlock_0/"}
BASE: dict[str, Any] = {
    "dim": 32,
    "heads": 4,
    "width": 8,
    "depth": 2,
    "patch": 8,
    "side": 4,
    "channels": 3,
    "classes": 5,
}
SIZES = {
    "token": {},
    "deeper": {"dim": 48, "heads": 3, "width": 16, "depth": 3, "patch": 4, "side": 5, "classes": 11},
    "gap": {"gap": True},
    "grey": {"channels": 1, "patch": 7, "side": 2, "gap": True},
    "in21k": {"represented": 24},
    "narrow": {"heads": 2, "width": 12, "represented": 16, "gap": True},
}


def draw(
    *,
    dim: int,
    heads: int,
    width: int,
    depth: int,
    patch: int,
    side: int,
    channels: int,
    classes: int,
    gap: bool = False,
    represented: int = 0,
) -> Arrays:
    """Weights in the layout of `ViT-B_16.npz`, none of which is 0 or 1."""
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (patch, patch, channels, dim),
        "embedding/bias": (dim,),
        "Transformer/posembed_input/pos_embedding": (1, side**2 + (not gap), dim),
        "Transformer/encoder_norm/scale": (dim,),
        "Transformer/encoder_norm/bias": (dim,),
        "head/kernel": (represented or dim, classes),
        "head/bias": (classes,),
    }
    shapes |= {} if gap else {"cls": (1, 1, dim)}
    shapes |= {"pre_logits/kernel": (dim, represented), "pre_logits/bias": (represented,)} if represented else {}
    for i in range(depth):
        first, attention, second, mlp = (f"Transformer/encoderblock_{i}/{half}/" for half in HALVES)
        for norm in (first, second):
            shapes |= {f"{norm}scale": (dim,), f"{norm}bias": (dim,)}
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}{name}/kernel": (dim, heads, width), f"{attention}{name}/bias": (heads, width)}
        shapes |= {f"{attention}out/kernel": (heads, width, dim), f"{attention}out/bias": (dim,)}
        shapes |= {f"{mlp}Dense_0/kernel": (dim, 2 * dim), f"{mlp}Dense_0/bias": (2 * dim,)}
        shapes |= {f"{mlp}Dense_1/kernel": (2 * dim, dim), f"{mlp}Dense_1/bias": (dim,)}
    random = np.random.default_rng(0)
    drawn = {name: random.normal(name.endswith("scale"), 0.2, shape) for name, shape in shapes.items()}
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def as_published(arrays: Arrays, batch: Tensor, patch: int) -> Tensor:
    """Logits of arXiv 2010.11929, equations 1 to 4, as `vit_jax/models_vit.py` computes them, spelled out.

    Args:
        batch: images (B, C, height, width).
    """
    w = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * w[f"{name}/scale"] + w[f"{name}/bias"]

    patches = batch.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, C, rows, columns, P, P)
    x = torch.einsum("bcrspq,pqcd->brsd", patches, w["embedding/kernel"]).flatten(1, 2) + w["embedding/bias"]
    if "cls" in w:
        x = torch.cat([w["cls"].expand(len(x), -1, -1), x], 1)
    x = x + w["Transformer/posembed_input/pos_embedding"]
    for i in range(sum(name.endswith("LayerNorm_0/scale") for name in w)):
        first, attention, second, mlp = (f"Transformer/encoderblock_{i}/{half}" for half in HALVES)
        y = norm(x, first)
        q, k, v = (
            torch.einsum("bnd,dhk->bhnk", y, w[f"{attention}/{name}/kernel"]) + w[f"{attention}/{name}/bias"][:, None]
            for name in ("query", "key", "value")
        )
        mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + torch.einsum("bhnk,hkd->bnd", mixed, w[f"{attention}/out/kernel"]) + w[f"{attention}/out/bias"]
        y = norm(x, second) @ w[f"{mlp}/Dense_0/kernel"] + w[f"{mlp}/Dense_0/bias"]
        y = F.gelu(y, approximate="tanh")
        x = x + y @ w[f"{mlp}/Dense_1/kernel"] + w[f"{mlp}/Dense_1/bias"]
    x = norm(x, "Transformer/encoder_norm")
    x = x[:, 0] if "cls" in w else x.mean(1)
    if "pre_logits/kernel" in w:
        x = (x @ w["pre_logits/kernel"] + w["pre_logits/bias"]).tanh()
    return x @ w["head/kernel"] + w["head/bias"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("layout", ["published", "linen"])
def test_answers_are_those_of_the_paper(name: str, layout: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = BASE | SIZES[name]
    arrays, path = draw(**sizes), tmp_path / "ViT.npz"
    if layout == "published":
        np.savez(path, **arrays)
    else:
        renamed = {f"params/{rename(key)}": array for key, array in arrays.items()}
        np.savez_compressed(path, **renamed)
    foreign = converted(path)
    assert foreign.config.image_size == (sizes["side"] * sizes["patch"],) * 2
    assert (foreign.config.heads, foreign.config.head_width) == (sizes["heads"], sizes["width"])
    assert foreign.mean == foreign.std == (0.5,) * sizes["channels"]
    assert foreign.layout == "google-research"
    check_same(foreign, arrays, sizes["patch"])


def check_same(foreign: ImportedModel, arrays: Arrays, patch: int) -> None:
    batch = images(foreign)
    with torch.inference_mode():
        assert (ours(foreign)(batch) - as_published(arrays, batch, patch)).abs().max() <= EXACT


def rename(name: str) -> str:
    for old, new in LINEN.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("name", ["token", "deeper", "gap"])
def test_answers_are_those_of_timm(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    sizes: dict[str, Any] = BASE | SIZES[name]
    np.savez(tmp_path / "ViT.npz", **draw(**sizes))
    theirs = timm.models.VisionTransformer(
        img_size=sizes["side"] * sizes["patch"],
        patch_size=sizes["patch"],
        num_classes=sizes["classes"],
        embed_dim=sizes["dim"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        mlp_ratio=2,
        act_layer="gelu_tanh",
        class_token=name != "gap",
        global_pool="avg" if name == "gap" else "token",
        fc_norm=False,
    ).eval()
    theirs.load_pretrained(tmp_path / "ViT.npz")
    foreign = converted(tmp_path / "ViT.npz")
    assert difference(foreign, theirs) <= EXACT


def test_a_class_token_without_position_is_that_of_big_vision(tmp_path: Path) -> None:
    arrays = draw(**BASE)
    places = arrays.pop("Transformer/posembed_input/pos_embedding")
    arrays |= {"pos_embedding": places[:, 1:], "cls": arrays["cls"] + places[:, :1]}
    np.savez(tmp_path / "ViT.npz", **{rename(key): array for key, array in arrays.items()})
    foreign = converted(tmp_path / "ViT.npz")
    check_same(foreign, draw(**BASE), BASE["patch"])


def test_a_model_without_head_knows_no_classes(tmp_path: Path) -> None:
    arrays = draw(**BASE)
    np.savez(tmp_path / "ViT.npz", **{name: array for name, array in arrays.items() if not name.startswith("head")})
    assert not converted(tmp_path / "ViT.npz").head


def test_images_that_are_no_squares_are_asked_for(tmp_path: Path) -> None:
    arrays = draw(**BASE)
    arrays["Transformer/posembed_input/pos_embedding"] = arrays["Transformer/posembed_input/pos_embedding"][:, :13]
    np.savez(tmp_path / "ViT.npz", **arrays)
    with pytest.raises(InputError, match="--image-size"):
        converted(tmp_path / "ViT.npz")
    assert converted(tmp_path / "ViT.npz", Hints(image_size=(24, 32))).config.grid == (3, 4)


HYBRID = {"conv_root/kernel": np.ones((7, 7, 3, 64), np.float32)}
MIXER = {"stem/kernel": np.ones((8, 8, 3, 32), np.float32), "MixerBlock_0/LayerNorm_0/scale": np.ones(32, np.float32)}
KERNEL = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/out/kernel"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (HYBRID, "is a hybrid"),
        (MIXER | dict.fromkeys(draw(**BASE)), "is an MLP-Mixer"),
        ({"MAPHead_0/probe": np.ones((1, 1, 32), np.float32)}, "pools by attention"),
        ({KERNEL: None}, f"lacks {KERNEL}"),
        ({"cls": None}, "17 patches"),
        ({"Transformer/encoderblock_0/LayerNorm_2/bias": None}, "lacks Transformer/encoderblock_0/LayerNorm_2/bias"),
        ({"extra/kernel": np.ones(2, np.float32)}, "also holds extra/kernel"),
        ({KERNEL: np.ones((4, 8, 32), np.int64)}, "int64"),
        ({KERNEL: np.ones((8, 4, 32), np.float32)}, "8 x 4 x 32"),
        ({KERNEL: np.full((4, 8, 32), np.nan, np.float32)}, "not finite"),
        ({"embedding/kernel": np.ones((8, 32), np.float32)}, "embedding/kernel is 8 x 32"),
        ({"embedding/kernel": np.ones((0, 0, 3, 32), np.float32)}, "embedding/kernel is 0 x 0"),
        ({"embedding/kernel": np.ones((8, 4, 3, 32), np.float32)}, "8 x 4 x 3 x 32"),
        ({"head/kernel": np.ones((32, 1), np.float32), "head/bias": np.ones(1, np.float32)}, "classes"),
    ],
)
def test_what_is_no_such_vit_is_refused_in_a_sentence(change: Arrays, sentence: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in (draw(**BASE) | change).items() if array is not None}
    np.savez(tmp_path / "ViT.npz", **arrays)
    with pytest.raises(InputError, match=sentence) as refused:
        converted(tmp_path / "ViT.npz")
    assert str(tmp_path / "ViT.npz") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6, 3, 10**6)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / "ViT.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", buffer.getvalue() + bytes(64))
    with pytest.raises(InputError, match="embedding/kernel has another size than its header says"):
        converted(tmp_path / "ViT.npz")
