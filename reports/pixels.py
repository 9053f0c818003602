"""What is painted over a test image: patches that are gone, patches that are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Light added to patches that are gone, themselves dimmed to 40 %: seen on black as well as on white
VEIL = (24, 42, 90)


def spread(grid: NDArray[Any], image: NDArray[Any]) -> NDArray[Any]:
    """Values of patches (rows, columns) -> of the pixels of an image (height, width)."""
    import numpy as np

    down, across = (np.arange(size) * parts // size for size, parts in zip(image.shape, grid.shape, strict=False))
    return grid[down][:, across]


def veiled(image: NDArray[Any], running: NDArray[Any]) -> NDArray[Any]:
    """The image, with the patches that do not run grey under a veil."""
    runs = spread(running, image)[..., None]
    return (runs * image + ~runs * (0.4 * image.mean(2, keepdims=True) + VEIL)).astype("uint8")


def heated(image: NDArray[Any], shares: NDArray[Any]) -> NDArray[Any]:
    """The image in grey under colours from the smallest share to the largest."""
    from matplotlib import colormaps

    heat = shares - shares.min()
    colours = 255 * colormaps["inferno"](spread(heat / max(heat.max(), 1e-9), image))[..., :3]
    return (0.25 * image.mean(2, keepdims=True) + 0.75 * colours).astype("uint8")
