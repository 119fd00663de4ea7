"""Flip, crop and normalise a batch of 8-bit images on the device that the network runs on.

What becomes of an image is drawn where it is read, from (seed, epoch, index) alone (`draw`); it is
done to whole batches, after their 8-bit pixels have gone to the device (`PixelBatch.to`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing import network_input


def draw(seed: int, epoch: int, index: int, room: int) -> tuple[int, int, int]:
    """(flip 0 or 1 with probability 1/2 each, top, left): top and left uniform in 0 .. room."""
    rng = np.random.default_rng((seed, epoch, index))
    flip = rng.random() < 0.5
    top, left = rng.integers(0, room + 1, size=2)
    return int(flip), int(top), int(left)


def flip_and_crop(pixels: Tensor, draws: Tensor, size: int) -> Tensor:
    """B x 3 x R x R and B x 3 `draws` -> B x 3 x size x size: image b is mirrored if its flip is 1,
    then cut out at (top, left)."""
    flip, top, left = draws.unbind(1)
    both = torch.stack([pixels, pixels.flip(3)], dim=1)  # B x 2 x 3 x R x R
    crops = both.unfold(3, size, 1).unfold(4, size, 1)  # B x 2 x 3 x P x P x S x S, a view
    return crops[torch.arange(len(pixels), device=pixels.device), flip, :, top, left]


@dataclass(frozen=True)
class PixelBatch:
    """B images as they are read, and what is to be done to them.

    pixels: B x 3 x R x R uint8. size: S, the side of the network's input. draws: B x 3 int64, a row
    of `draw` for each image; None: the images are S x S and stay as they are.
    """

    pixels: Tensor
    size: int
    draws: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def pin_memory(self) -> PixelBatch:
        """The same in page-locked memory, from which copies to a GPU run beside it."""
        draws = None if self.draws is None else self.draws.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), draws=draws)

    def to(self, model: nn.Module, device: torch.device | str) -> Tensor:
        """B x 3 x S x S float32 on `device`: the `network_input` of `model`."""
        pixels = self.pixels.to(device, non_blocking=True)
        if self.draws is not None:
            draws = self.draws.to(device, non_blocking=True)
            pixels = flip_and_crop(pixels, draws, self.size)
        return network_input(pixels, model.config.name)
