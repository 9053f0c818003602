"""Image files of every kind show what Pillow, or arithmetic, says they do."""

import threading
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from baselines import images
from baselines.errors import InputError
from baselines.images import DEEP, DIM, TRANSPARENT, TURNED, convert, decode, read
from baselines.resizing import STRETCHED

SIZE = (20, 28)  # height, width
LEVELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = LEVELS[..., 0]
PICTURE = Image.fromarray(LEVELS)
Transpose = Image.Transpose


def pixels(path: Path, channels: int = 3) -> np.ndarray:
    return decode(path, SIZE, channels, STRETCHED).permute(1, 2, 0).numpy()


def in_mode(mode: str) -> Image.Image:
    if mode == "LAB":
        way = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        made = ImageCms.applyTransform(PICTURE, way)
        assert made is not None
        return made
    if mode in ("LA", "RGBA"):
        made = PICTURE.convert(mode)
        made.putalpha(Image.fromarray(255 - GREY))
        return made
    return PICTURE.convert("RGBA").convert("PA") if mode == "PA" else PICTURE.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[(mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[(mode, "tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")],
        *[(mode, "jpg") for mode in ("L", "RGB", "CMYK", "YCbCr")],
        *[(mode, "webp") for mode in ("RGB", "RGBA")],
        *[("P", "gif"), ("RGB", "bmp"), ("RGB", "ppm"), ("1", "pbm"), ("RGB", "jp2"), ("RGB", "jfif")],
    ],
)
def test_modes_of_8_bits_are_as_pillow_converts_them(mode: str, suffix: str, tmp_path: Path) -> None:
    in_mode(mode).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = image.convert("RGB")
    assert np.array_equal(pixels(tmp_path / f"a.{suffix}"), np.array(expected))
    got, grey = pixels(tmp_path / f"a.{suffix}", channels=1)[..., 0], np.array(expected.convert("L"))
    assert abs(got.astype(int) - grey).max() <= (0 if mode not in ("CMYK", "YCbCr") else 2)


@pytest.mark.parametrize("mode", ["HSV", "PA", "RGBa", "RGBX"])
def test_modes_that_no_file_here_holds(mode: str) -> None:
    image = in_mode("RGBA").convert(mode) if mode == "RGBa" else in_mode(mode)
    expected = np.array(image.convert("RGBA" if mode == "RGBa" else "RGB").convert("RGB"))
    assert np.array_equal(np.array(convert(Path("x"), image, "RGB")[0]), expected)


def test_transparency_is_left_out_and_said(tmp_path: Path) -> None:
    palette = PICTURE.convert("P")
    palette.save(tmp_path / "one.png", transparency=3)
    palette.save(tmp_path / "bytes.png", transparency=bytes(range(256)))
    in_mode("RGBA").save(tmp_path / "rgba.png")
    PICTURE.convert("RGBA").save(tmp_path / "opaque.png")
    for name in ("one", "bytes"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of Pillow, on the terminal
            got, remarks = read(tmp_path / f"{name}.png", SIZE, 3, STRETCHED)
        assert np.array_equal(got.permute(1, 2, 0).numpy(), np.array(palette.convert("RGB")))
        assert remarks == {TRANSPARENT}
    assert np.array_equal(pixels(tmp_path / "rgba.png"), LEVELS)
    assert read(tmp_path / "rgba.png", SIZE, 3, STRETCHED)[1] == {TRANSPARENT}
    assert read(tmp_path / "opaque.png", SIZE, 3, STRETCHED)[1] == set()


DEEPER = {
    "16.png": (GREY.astype(np.uint16) * 257, {}),
    "16.tif": (GREY.astype(np.uint16) * 257, {}),
    "16.pgm": (GREY.astype(np.uint16) * 257, {}),
    "16.jp2": (GREY.astype(np.uint16) * 257, {}),
    "big_endian.tif": (GREY.astype(">u2") * 257, {}),
    "i.pgm": (GREY.astype(np.int32) * 257, {}),
    "12_declared.tif": (np.rint(GREY / 255 * 4095).astype(np.uint16), {"tiffinfo": {281: 4095}}),
    "i_declared.tif": (GREY.astype(np.int32) * 257, {"tiffinfo": {341: 65535}}),
    "float.tif": ((GREY / 255).astype(np.float32), {}),
    "float.pfm": ((GREY / 255).astype(np.float32), {}),
}


@pytest.mark.parametrize("name", DEEPER)
def test_more_than_8_bits_are_scaled_by_their_range(name: str, tmp_path: Path) -> None:
    values, options = DEEPER[name]
    mode = "I;16B" if values.dtype == np.dtype(">u2") else None
    image = Image.frombytes(mode, SIZE[::-1], values.astype(">u2").tobytes()) if mode else Image.fromarray(values)
    image.save(tmp_path / name, **options)
    for channels in (1, 3):
        got, remarks = read(tmp_path / name, SIZE, channels, STRETCHED)
        assert torch.equal(got, torch.from_numpy(GREY).expand(channels, -1, -1))
        assert remarks == {DEEP}


def test_the_range_that_a_file_declares(tmp_path: Path) -> None:
    twelve = np.rint(GREY / 255 * 4095).astype(">u2")
    (tmp_path / "12.pgm").write_bytes(b"P5 %d %d 4095\n" % SIZE[::-1] + twelve.tobytes())
    assert np.array_equal(pixels(tmp_path / "12.pgm", 1)[..., 0], GREY)
    flipped = Image.fromarray(65535 - GREY.astype(np.uint16) * 257)
    flipped.save(tmp_path / "white_is_zero.tif", tiffinfo={262: 0})
    assert np.array_equal(pixels(tmp_path / "white_is_zero.tif", 1)[..., 0], GREY)
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "used.tif", tiffinfo={281: 40000})
    assert np.array_equal(pixels(tmp_path / "used.tif", 1)[..., 0], GREY)  # the most that this image holds
    Image.fromarray(twelve.astype(np.uint16)).save(tmp_path / "dim.png")
    assert read(tmp_path / "dim.png", SIZE, 1, STRETCHED)[1] == {DEEP, DIM}


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.int32),
        GREY.astype(np.int32) - 300,
        GREY.astype(np.float32),
        np.where(GREY > 9, np.nan, 0).astype(np.float32),
    ],
    ids=["integers", "negative", "floats", "none"],
)
def test_numbers_of_no_known_range_are_refused(values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(InputError, match=r"odd\.tif cannot be scaled .* no known range; save it with 8 or 16 bits"):
        decode(tmp_path / "odd.tif", SIZE, 3, STRETCHED)
    Image.fromarray(values).save(tmp_path / "odd.tif", tiffinfo={341: 127})
    with pytest.raises(InputError, match=r"odd\.tif cannot be scaled"):
        decode(tmp_path / "odd.tif", SIZE, 3, STRETCHED)


STORED = {  # how a camera stores what EXIF orientation 1 to 8 sets upright
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_orientations_are_upright(orientation: int, tmp_path: Path) -> None:
    exif, turn = Image.Exif(), STORED[orientation]
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif", "a.webp", "a.jpg", "deep.png", "palette.png"):
        image = {"deep.png": Image.fromarray(GREY.astype(np.uint16) * 257), "palette.png": PICTURE.convert("P")}
        upright = image.get(name, PICTURE)
        lossless = {"lossless": True} if name == "a.webp" else {}
        (upright if turn is None else upright.transpose(turn)).save(tmp_path / name, exif=exif, **lossless)
        got, remarks = read(tmp_path / name, SIZE, 3, STRETCHED)
        assert remarks - {DEEP} == ({TURNED} if orientation > 1 else set())
        if name == "a.jpg":
            with Image.open(tmp_path / name) as image:
                expected = np.array(ImageOps.exif_transpose(image))
        else:
            expected = GREY[..., None].repeat(3, 2) if name == "deep.png" else np.array(upright.convert("RGB"))
        assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


def test_damaged_exif_data_do_no_harm(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(pixels(tmp_path / "a.png"), LEVELS)


def test_remarks_are_counted() -> None:
    said = images.describe(Counter({TURNED: 2, DEEP: 1500, DIM: 3}), 2000)
    assert said == [f"2 of 2,000 images: {TURNED}", f"1,500 of 2,000 images: {DEEP}"]
    assert images.describe(Counter({DEEP: 3, DIM: 3}), 4) == [f"3 of 4 images: {DEEP}, {DIM}"]


def test_too_many_pixels_are_refused_and_large_images_wait_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURE.save(tmp_path / "a.png")
    inside, most = 0, 0

    def watched(*args):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return convert(*args)
        finally:
            inside -= 1

    monkeypatch.setattr(images, "convert", watched)
    monkeypatch.setattr(images, "LARGE", 100)
    threads = [threading.Thread(target=decode, args=(tmp_path / "a.png", SIZE, 3, STRETCHED)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(InputError, match=r"a\.png has too many pixels.*; make it smaller"):
        decode(tmp_path / "a.png", SIZE, 3, STRETCHED)
