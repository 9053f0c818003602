"""ViT and DeiT of Hugging Face's transformers: weights, and config.json and preprocessor_config.json beside them.

    [vit. | deit.] embeddings. patch_embeddings.projection  cls_token  distillation_token  position_embeddings
                   encoder.layer.N. layernorm_before  attention.attention.{query, key, value}  attention.output.dense
                                    layernorm_after  intermediate.dense  output.dense
                   layernorm
    classifier | cls_classifier  distillation_classifier

Read from what transformers 5.23 writes. Its modules have other names since version 5 (`layers.N.attention.q_proj`),
which files get with `save_original_format=False` alone.

`DeiTForImageClassification` looks at the class token only: its distillation token is a register here.

Legend: D width, N tokens.
"""

from torch import Tensor

from baselines.errors import InputError
from compress.importers import huggingface_settings as settings
from compress.importers.base import UNKNOWN, Hints, ImportedModel, Layout
from compress.importers.geometry import infer_config, make_empty_head
from compress.importers.huggingface_export import BLOCKS, DISTILL_HEAD, LAYERS, PATCHES, QKV, TOKENS, map_layers, write
from compress.importers.preprocessing import read_huggingface
from compress.importers.weights import Weights

NEWER = {  # names of layers of a block in version 5, and of ours
    **{name: f"attention.{name[0]}_proj" for name in QKV},
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
LAYOUTS = {BLOCKS: LAYERS, "layers.{}.": NEWER}
UNREAD = "images are stretched, as preprocessor_config.json asks for more than compress can do; --resize overrides it"


def read(weights: Weights, hints: Hints) -> ImportedModel:
    """See `Layout`."""
    settings.check_kind(weights)
    start = next((name for name in ("vit.", "deit.") if f"{name}{PATCHES}.weight" in weights), "")
    dim, channels, patch_size, _ = weights.shape(f"{start}{PATCHES}.weight", 4)
    blocks, names = find_block_names(weights, start)
    first = start + blocks.format(0)
    depth = weights.count(f"{start}{blocks}layernorm_before.weight")
    inner, _ = weights.shape(f"{first}{names['query']}.weight", 2)
    mlp_dim, _ = weights.shape(f"{first}{names['mlp.fc1']}.weight", 2)
    settings.check_sizes(weights, hidden_size=dim, num_hidden_layers=depth, intermediate_size=mlp_dim)
    settings.check_sizes(weights, num_channels=channels, patch_size=patch_size)
    heads, head_dim = settings.read_heads(weights, hints, dim, depth, inner)
    state, known = take_head(weights, dim)
    state |= take_tokens(weights, start, dim, distilled="distill_head.weight" in state)
    prefix = sum(state[name].shape[1] for name in ("cls_token", "distill_token", "registers") if name in state)
    size = settings.read_image_size(weights, hints, state["pos_embed"].shape[1] - prefix, patch_size)
    qkv_bias = bool(weights.content.settings.get("qkv_bias", f"{first}{names['query']}.bias" in weights))
    layers = map_layers(depth, start, blocks, names)
    for i in range(depth):
        ours = f"encoder.blocks.{i}."
        state |= weights.take_qkv(f"{ours}attn.qkv", [layers.pop(ours + name) for name in QKV], bias=qkv_bias)
    state |= weights.take_layers(layers)
    weights.drop(f"{start}embeddings.mask_token", f"{start}pooler.dense.weight", f"{start}pooler.dense.bias")
    kinds = settings.read_numerics(weights)
    config = infer_config(weights, state, heads=heads, head_dim=head_dim, image_size=size, **kinds)
    mean, std = settings.read_normalization(weights, channels)
    classes = settings.read_classes(weights, config.classes) if known else ()
    said = weights.content.preprocessing
    resizing = read_huggingface(said, config.image_size) if said else None
    unread = bool(said) and resizing is None and hints.resize is None
    if unread:
        weights.notes.append(UNREAD)
    return ImportedModel(config, state, classes, mean, std, resizing, head=known, choice=UNREAD if unread else "")


def find_block_names(weights: Weights, start: str) -> tuple[str, dict[str, str]]:
    """What stands in front of the names of a block, with {} for its number, and the names of its layers.

    Raises:
        InputError: there are no blocks of a ViT.
    """
    for blocks, names in LAYOUTS.items():
        if f"{start}{blocks.format(0)}layernorm_before.weight" in weights:
            return blocks, names
    raise InputError(f"{weights.path} begins like a ViT of Hugging Face, but does not have its blocks; {UNKNOWN}")


def take_tokens(weights: Weights, start: str, dim: int, *, distilled: bool) -> dict[str, Tensor]:
    """Tokens of the prefix and position embeddings (1, N, D).

    Args:
        distilled: whether a head looks at the distillation token.
    """
    names = {ours: start + theirs for ours, theirs in TOKENS.items()}
    state = {
        "cls_token": weights.take(names["cls_token"], 1, 1, dim),
        "pos_embed": weights.take_tokens(names["pos_embed"], dim),
    }
    if distilled or names["distill_token"] in weights or weights.content.settings.get("model_type") == "deit":
        state["distill_token" if distilled else "registers"] = weights.take(names["distill_token"], 1, 1, dim)
    return state


def take_head(weights: Weights, dim: int) -> tuple[dict[str, Tensor], bool]:
    """The heads, and whether there are any.

    Raises:
        InputError: config.json promises one that is not there.
    """
    promised = str(weights.content.settings.get("architectures"))
    distilled = "cls_classifier.weight" in weights or "ForImageClassificationWithTeacher" in promised
    if not distilled and "classifier.weight" not in weights and "ForImageClassification" not in promised:
        weights.drop("decoder.0.weight", "decoder.0.bias")  # with which it was pretrained
        return make_empty_head({}, dim), False
    names = {"head": "cls_classifier", "distill_head": DISTILL_HEAD} if distilled else {"head": "classifier"}
    return weights.take_layers(names), True


MARKERS = f"vit.{PATCHES}.weight", f"deit.{PATCHES}.weight", f"{PATCHES}.weight"
LAYOUT = Layout("huggingface", MARKERS, read, write, ("classifier", "cls_classifier"))
