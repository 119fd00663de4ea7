"""Batches flipped, cropped and normalised on the device, against one image after the other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import crop, hflip, normalize, to_tensor

from augmentation import PixelBatch, draw, flip_and_crop

NETWORK = SimpleNamespace(config=SimpleNamespace(name="delegate_base"))
CNN = SimpleNamespace(config=SimpleNamespace(name="delegate_cnn"))


def one_by_one(pixels: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """What training did to an image when it did it to each by itself: flip, then crop."""
    if rng.random() < 0.5:
        pixels = pixels.flip(2)
    top, left = rng.integers(0, pixels.shape[1] - size + 1, size=2)
    return pixels[:, top : top + size, left : left + size]


def random_pixels(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("side", "size"), [(32, 24), (25, 24), (24, 24)])
def test_batch_equals_one_by_one(side: int, size: int) -> None:
    pixels = random_pixels(64, side)
    draws = torch.tensor([draw(3, 7, i, side - size) for i in range(64)])
    expected = [
        one_by_one(image, size, np.random.default_rng((3, 7, i))) for i, image in enumerate(pixels)
    ]
    assert torch.equal(flip_and_crop(pixels, draws, size), torch.stack(expected))


@pytest.mark.parametrize("network", [NETWORK, CNN])
def test_network_gets_what_torchvision_makes(network: SimpleNamespace) -> None:
    pixels = random_pixels(8, 16)
    draws = torch.tensor([(i % 2, i // 2, 3 - i // 2) for i in range(8)])
    images = PixelBatch(pixels, 13, draws).to(network, "cpu")
    layout = torch.channels_last if network is CNN else torch.contiguous_format
    assert images.is_contiguous(memory_format=layout)
    assert images.dtype == torch.float32
    for image, source, (flip, top, left) in zip(images, pixels, draws.tolist(), strict=True):
        image_in = to_tensor(source.permute(1, 2, 0).numpy())
        cut = crop(hflip(image_in) if flip else image_in, top, left, 13, 13)
        expected = normalize(cut, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)


def test_without_draws_images_stay_whole() -> None:
    pixels = random_pixels(3, 16)
    batch = PixelBatch(pixels, 16)
    assert len(batch) == 3
    std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    restored = batch.to(NETWORK, "cpu") * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(restored * 255, pixels.float(), rtol=0, atol=1e-3)
    assert torch.equal(pixels, random_pixels(3, 16))  # and are not changed in place


def test_flip_and_crop_are_drawn_as_torchvision_draws_them() -> None:
    pixels = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(9000, 3, 4, 4)
    draws = torch.tensor([draw(0, 1, i, 2) for i in range(9000)])
    corners = flip_and_crop(pixels, draws, 2)[:, 0, :1]  # N x 1 x 2
    flipped = corners[:, 0, 0] > corners[:, 0, 1]
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    left_top, counts = np.unique(corners.amin(dim=(1, 2)).numpy(), return_counts=True)
    assert left_top.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]  # nine places, equally often
    np.testing.assert_allclose(counts / 9000, 1 / 9, atol=0.015)


def test_draws_depend_on_seed_epoch_and_index() -> None:
    drawn = {(s, e, i): draw(s, e, i, 1000) for s in (0, 1) for e in (0, 1) for i in (0, 1)}
    assert len(set(drawn.values())) == 8
    assert draw(1, 0, 1, 1000) == drawn[1, 0, 1]
    assert {draw(0, 0, i, 0)[1:] for i in range(20)} == {(0, 0)}
