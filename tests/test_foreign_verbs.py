"""Every verb on a checkpoint that timm wrote, with images in folders; and what files do not say, found on images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from baselines.data import Data, TensorSplit
from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import cli
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import Hints
from compress.importers.normalization import NORMALIZATIONS, list_normalizations
from compress.training import data as images

STUDENT = """\
[model]
image_size = 8
patch_size = 4
dim = 16
depth = 1
heads = 2
mlp_dim = 16

[train]
epochs = 1
batch_size = 32
warmup_epochs = 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `timm.pth` and `images/`, ten classes of six scans."""
    folder = tmp_path_factory.mktemp("foreign")
    scans = load_digits()
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True)
        for number, scan in enumerate(scans.images[scans.target == label][:6]):
            picture = Image.fromarray((scan * 15.9).astype("uint8")).convert("RGB")
            picture.save(folder / "images" / str(label) / f"{number}.png")
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(8, 2, num_classes=10, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2)
    nn.init.normal_(model.head.weight)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "timm.pth")
    (folder / "student.toml").write_text(STUDENT)
    return folder


@pytest.fixture
def compress(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a command line in that folder; gives what it said."""
    monkeypatch.chdir(place)

    def call(line: str) -> str:
        code = cli.main(line.split())
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return call


WITH = "timm.pth --heads 4 --data folder:images --normalize half --threads 1"


def test_inspect_says_what_it_is_and_what_it_does_not_say(compress) -> None:
    said = compress("inspect timm.pth --heads 4")
    assert "timm" in said
    assert "2, 32, 4, 64" in said
    assert "4 x 4 patches of 2 x 2 pixels + 1" in said
    assert "names not stored" in said


def test_quantize(compress, place: Path) -> None:
    said = compress(f"quantize {WITH} --runtime onnxruntime --mode static --seconds 0.1")
    assert "onnxruntime: static" in said
    assert (place / "timm.int8.onnx").is_file()


def test_prune_then_quantize_what_it_wrote(compress) -> None:
    said = compress(f"prune {WITH} --keep 0.5")
    assert "wrote timm.topk.pth" in said
    assert "topk" in compress("inspect timm.topk.pth")


def test_halt_with_training(compress, place: Path) -> None:
    compress(f"halt {WITH} --epochs 1 --out halted")
    assert (place / "halted" / "timm.avit.pth").is_file()


@pytest.mark.usefixtures("no_plots")
def test_bench(compress, place: Path) -> None:
    short = "--runtime onnxruntime --no-plain --seconds 0.1 --batch-size 1"
    compress(f"bench --checkpoint {WITH} --variants int8 {short} --out bench")
    rows = [json.loads(line) for line in (place / "bench" / "rows.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["executed"]) for row in rows] == [("vit", "fp32"), ("int8", "int8")]
    assert rows[0]["config"]["model"]["norm_eps"] == 1e-6


def test_distill(compress, place: Path) -> None:
    compress("distill timm.pth --student student.toml --heads 4 --data folder:images --threads 1 --out distilled")
    assert (place / "distilled" / "best_vit_distill_model.pth").is_file()
    assert "0, 1, 2" in compress("inspect distilled/teacher.pth")


@pytest.mark.parametrize("line", ["quantize timm.pth --heads 4", "bench --checkpoint timm.pth --heads 4"])
def test_images_have_to_be_named(line: str, place: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    assert cli.main(line.split()) == 2
    assert "timm.pth records no dataset" in capsys.readouterr().err


SMALL = ViTConfig(image_size=4, patch_size=2, dim=8, depth=1, heads=1, mlp_dim=8, classes=3)


class Brightness(VisionTransformer):
    """Knows black from white where black is -1 and white is 1; takes anything beyond for a third class."""

    def __init__(self) -> None:
        super().__init__(SMALL)

    def forward(self, images: Tensor) -> Tensor:
        level = images.mean((1, 2, 3))
        return 20 * torch.stack([-((level + 1) ** 2), -((level - 1) ** 2), torch.full_like(level, -0.5)], 1)


def black_and_white() -> Data:
    pictures = torch.cat([torch.zeros(8, 3, 4, 4), torch.full((8, 3, 4, 4), 255.0)]).to(torch.uint8)
    split = TensorSplit(pictures, torch.tensor([0] * 8 + [1] * 8))
    return Data("bw", ("black", "white", "other"), split, split, (0.5,) * 3, (0.2,) * 3)


def unsaid(classes: tuple[str, ...] = ()) -> Checkpoint:
    torch.manual_seed(0)
    state = VisionTransformer(SMALL).state_dict()
    return Checkpoint(SMALL, (), state, "", classes, (), (), origin={"family": "timm", "numbers": "fp32", "notes": []})


def test_normalisation_is_the_one_that_suits_labelled_images_best() -> None:
    said: list[str] = []
    content, data = images.adapt_to_data(Path("m.pth"), Brightness(), unsaid(), black_and_white(), Hints(), said.append)
    assert (content.mean, content.std) == NORMALIZATIONS["half"] == (data.mean, data.std)
    assert "half is the most accurate on 16 training images" in said[0]
    assert content.classes == ("black", "white", "other")
    assert content.dataset == "bw"


def test_a_normalisation_that_is_said_is_taken() -> None:
    hints = Hints(normalize="0.1,0.2,0.3/1,2,3")
    content, _ = images.adapt_to_data(Path("m.pth"), Brightness(), unsaid(), black_and_white(), hints, print)
    assert (content.mean, content.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    data = images.adapt_to_data(
        Path("m.pth"), Brightness(), unsaid(), black_and_white(), Hints(normalize="data"), print
    )[1]
    assert (data.mean, data.std) == ((0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("text", ["imagnet", "0.5/0.5", "1,2,3/1,0,1", "a,b,c/1,1,1"])
def test_what_is_no_normalisation_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--normalize"):
        list_normalizations(text, 3)


def test_classes_in_another_order_are_put_into_that_of_the_data() -> None:
    content = unsaid(("white", "other", "black"))
    model = VisionTransformer(content.config)
    model.load_state_dict(content.state)
    picture = torch.randn(2, 3, 4, 4)
    before = model(picture)
    settled, data = images.adapt_to_data(Path("m"), model, content, black_and_white(), Hints(normalize="half"), print)
    torch.testing.assert_close(model(picture), before[:, [2, 0, 1]])
    torch.testing.assert_close(settled.state["head.weight"], model.head.weight.detach())
    assert settled.classes == data.classes == ("black", "white", "other")


def test_other_names_for_as_many_classes_are_taken_in_order_and_said() -> None:
    said: list[str] = []
    data = images.adapt_to_data(
        Path("m"), Brightness(), unsaid(("a", "b", "c")), black_and_white(), Hints(normalize="half"), said.append
    )[1]
    assert data.classes == ("a", "b", "c")
    assert "taken to be the same" in said[0]
    with pytest.raises(InputError, match="--data"):
        images.adapt_to_data(
            Path("m"), Brightness(), unsaid(("black", "b", "c")), black_and_white(), Hints(normalize="half"), print
        )
