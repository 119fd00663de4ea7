"""From a photograph to what a network takes: S x S pixels, ImageNet-normalised."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import images
from errors import UserError
from geometry import Placement

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PADDING = (124, 116, 104)  # ImageNet's mean color in 8 bits: within 0.009 of 0 once normalised

Photo = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B x) 3 x H x W -> float32, ImageNet-normalised (torchvision's ToTensor, Normalize)."""
    # Not made on the device: that would wait for what it is doing.
    mean, std = (
        torch.tensor(values).view(3, 1, 1).to(pixels.device, non_blocking=True)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)  # the first makes a copy


def network_input(pixels: torch.Tensor, network: str) -> torch.Tensor:
    """uint8 B x 3 x S x S -> what `network` (its name) takes, on the same device: `normalise`d, the
    channels last for a CNN, whose convolutions are faster that way."""
    layout = torch.channels_last if network == "delegate_cnn" else torch.contiguous_format
    return normalise(pixels.contiguous(memory_format=layout))


def resize(image: Image.Image, size: int, aspect: str = "stretch") -> torch.Tensor:
    """RGB image -> uint8 3 x size x size with Pillow's antialiased bilinear filter.

    aspect: "stretch" fills the square; "pad" keeps the proportions, the photograph in the middle
    of ImageNet's mean color (`PADDING`), see `geometry.Placement`.
    """
    place = Placement.of((image.height, image.width), size, aspect)
    image = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    if place.is_padded:
        pixels = np.full((size, size, 3), PADDING, dtype=np.uint8)
        rows = slice(place.top, place.top + place.height)
        pixels[rows, place.left : place.left + place.width] = np.asarray(image)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def as_rgb(photo: Photo) -> Image.Image:
    """A path, Pillow image, H x W x 3 uint8 array or 3 x H x W tensor as an 8-bit RGB image.

    Tensors are uint8, or floats in [0, 1] (rounded to 8 bits). Raises `UserError` for other
    shapes, types and values, and for files that cannot be read.
    """
    if isinstance(photo, (str, os.PathLike)):
        return images.open_rgb(Path(photo))
    if isinstance(photo, Image.Image):
        return images.to_rgb(photo)
    if isinstance(photo, torch.Tensor):
        photo = _from_tensor(photo)
    if not isinstance(photo, np.ndarray):
        raise UserError(
            f"a {type(photo).__name__} is no photograph: give a path, a Pillow image, an H x W x 3"
            " uint8 array, a 3 x H x W tensor, or a list of them"
        )
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise UserError(
            f"an array of shape {photo.shape} and type {photo.dtype} is no photograph: H x W x 3"
            " of type uint8 is needed"
        )
    return Image.fromarray(np.ascontiguousarray(photo))


def _from_tensor(photo: torch.Tensor) -> np.ndarray:
    """3 x H x W, uint8 or float in [0, 1] -> H x W x 3 uint8."""
    if photo.ndim != 3 or len(photo) != 3:
        raise UserError(
            f"a tensor of shape {tuple(photo.shape)} is no photograph: 3 x H x W is needed (a batch"
            " goes in as a list)"
        )
    photo = photo.detach().cpu()
    if photo.is_floating_point():
        if not ((photo >= 0) & (photo <= 1)).all():
            raise UserError("a float tensor must lie in [0, 1], before any normalisation")
        photo = (photo * 255).round().to(torch.uint8)
    return photo.permute(1, 2, 0).numpy()
