"""From a network's coordinates to the pixels of the photograph, and between feature maps."""

from __future__ import annotations

import numpy as np


def to_pixels(
    points: np.ndarray, map_size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
    """Points on a feature map → (y, x) pixels of the photograph that the network was shown.

    points: … × 2 (y, x), −1 and 1 being the centres of a map's first and last row or column
    (`align_corners=True`). map_size: rows, columns of the map. image_size: height, width of the
    photograph, before it was squeezed into the network's square. Integers are pixel centres.

    For either axis, with n cells on the map and N pixels in the photograph:

    1. −1 and 1 are the centres of cells 0 and n − 1, so p lies at u = (p + 1)/2 · (n − 1) cells;
    2. cell u covers the share u/n … (u + 1)/n of the side, so p is at the share (u + 0.5)/n.
       Squeezing the photograph into a square keeps shares, whatever its aspect ratio;
    3. pixel i covers the share i/N … (i + 1)/N, so the share s is at pixel i = s · N − 0.5.

    A padded CNN may see up to half a cell to one side of its cell's place (step 2); transformers,
    whose patches do not overlap, see exactly there.
    """
    cells, pixels = np.asarray(map_size), np.asarray(image_size)
    return _shares(points, cells) * pixels - 0.5


def to_map(
    points: np.ndarray, map_size: tuple[int, int], other_size: tuple[int, int]
) -> np.ndarray:
    """The same places on a map of another size: … × 2 (y, x), coordinates as in `to_pixels`."""
    cells, others = np.asarray(map_size), np.asarray(other_size)
    positions = _shares(points, cells) * others - 0.5  # in cells of the other map
    return positions / np.maximum(others - 1, 1) * 2 - 1


def _shares(points: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Steps 1 and 2 of `to_pixels`: places as shares of the photograph's sides."""
    return ((points + 1) / 2 * (cells - 1) + 0.5) / cells
