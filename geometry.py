"""From a network's coordinates to the pixels of the photograph, and between feature maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ASPECTS = ("stretch", "pad")  # ways of a photograph into a network's square


@dataclass(frozen=True)
class Placement:
    """Where a photograph lies in the square that a network is shown, in the square's pixels.

    Rows top … top + height, columns left … left + width; whatever else there is, is padding.
    """

    side: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, image_size: tuple[int, int], side: int, aspect: str) -> Placement:
        """The place of a photograph of `image_size` (height, width).

        stretch: all of the square, proportions not kept. pad: the longer side becomes `side`, the
        shorter one keeps the proportion (halves up, at least 1) and lies in the middle, the odd
        pixel of padding below or to the right. Raises `ValueError` for another `aspect`.
        """
        if aspect not in ASPECTS:
            raise ValueError(f"aspect must be one of {ASPECTS}: {aspect!r}")
        if aspect == "stretch":
            return cls(side, 0, 0, side, side)
        longer = max(image_size)
        height, width = (max(1, (2 * n * side + longer) // (2 * longer)) for n in image_size)
        return cls(side, (side - height) // 2, (side - width) // 2, height, width)

    @property
    def is_padded(self) -> bool:
        """Whether the square holds more than the photograph."""
        return (self.height, self.width) != (self.side, self.side)

    def shares_of_photo(self, shares: np.ndarray) -> np.ndarray:
        """Shares of the square's sides → of the photograph's, … × 2 (y, x); on the padding they
        lie outside [0, 1]."""
        corner = np.array([self.top, self.left])
        return (shares * self.side - corner) / [self.height, self.width]

    def frame(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Borders of the square (top, left, bottom, right) in pixels of the photograph of
        `image_size`, whose own are −0.5, −0.5, height − 0.5, width − 0.5."""
        borders = self.shares_of_photo(np.array([[0, 0], [1, 1]])) * image_size - 0.5
        return tuple(borders.ravel().tolist())


def to_pixels(
    points: np.ndarray,
    map_size: tuple[int, int],
    image_size: tuple[int, int],
    placement: Placement | None = None,
) -> np.ndarray:
    """Points on a feature map → (y, x) pixels of the photograph that the network was shown.

    points: … × 2 (y, x), −1 and 1 being the centres of a map's first and last row or column
    (`align_corners=True`). map_size: rows, columns of the map. image_size: height, width of the
    photograph, before it was brought into the network's square. Integers are pixel centres.
    placement: where it lies in the square (None: it fills it).

    For either axis, with n cells on the map and N pixels in the photograph:

    1. −1 and 1 are the centres of cells 0 and n − 1, so p lies at u = (p + 1)/2 · (n − 1) cells;
    2. cell u covers the share u/n … (u + 1)/n of the square's side, so p is at (u + 0.5)/n.
       Stretching the photograph over the square keeps shares, whatever its aspect ratio; in a
       padded square of side S it covers m pixels from o on: share s is its share (s · S − o)/m;
    3. pixel i covers the share i/N … (i + 1)/N, so the share s is at pixel i = s · N − 0.5.

    A point on the padding comes out beyond the photograph's pixels.

    A padded CNN may see up to half a cell to one side of its cell's place (step 2); transformers,
    whose patches do not overlap, see exactly there.
    """
    cells, pixels = np.asarray(map_size), np.asarray(image_size)
    shares = _shares(points, cells)
    if placement is not None:
        shares = placement.shares_of_photo(shares)
    return shares * pixels - 0.5


def to_map(
    points: np.ndarray, map_size: tuple[int, int], other_size: tuple[int, int]
) -> np.ndarray:
    """The same places on a map of another size: … × 2 (y, x), coordinates as in `to_pixels`."""
    cells, others = np.asarray(map_size), np.asarray(other_size)
    positions = _shares(points, cells) * others - 0.5  # in cells of the other map
    return positions / np.maximum(others - 1, 1) * 2 - 1


def _shares(points: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Steps 1 and 2 of `to_pixels`: places as shares of the square's sides."""
    return ((points + 1) / 2 * (cells - 1) + 0.5) / cells
