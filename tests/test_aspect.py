"""Photographs that keep their proportions: the same pixels and places on every path."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from scorers import lively_nano, picture, save
from tiny import write_tiny_dataset
from viewing import PatchModel

import predict
from config_layers import resolve_config
from explain import draw
from explanation import explain_image
from export_model import export, pillow_resize
from geometry import Placement, to_pixels
from models import ColorAesthetics, load_model
from models.sampling import sample_bilinear
from preprocessing import PADDING, normalise, resize
from serve import Scorer
from setting import Setting, build_loader, build_network, build_splits
from sweep import compute_sweep


def test_a_small_photograph_by_hand() -> None:
    """4 × 2 pixels into 4 × 4: as they are, in the two middle rows."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    square = resize(Image.fromarray(pixels), 4, "pad").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(square[1:3], pixels)
    np.testing.assert_array_equal(square[[0, 3]], np.broadcast_to(PADDING, (2, 4, 3)))
    upright = resize(Image.fromarray(pixels.transpose(1, 0, 2)), 4, "pad").permute(2, 1, 0).numpy()
    np.testing.assert_array_equal(upright, square)
    assert normalise(torch.tensor(PADDING, dtype=torch.uint8).view(3, 1, 1)).abs().max() < 0.009


@pytest.mark.parametrize(
    ("image_size", "side", "expected"),
    [
        ((100, 300), 128, (42, 0, 43, 128)),  # 42.67 rows; the odd row of padding is below
        ((300, 100), 128, (0, 42, 128, 43)),
        ((1, 4), 6, (2, 0, 2, 6)),  # 1.5 rows: halves up
        ((3, 1000), 128, (63, 0, 1, 128)),  # never less than one
        ((77, 77), 128, (0, 0, 128, 128)),
    ],
)
def test_placement_by_hand(
    image_size: tuple[int, int], side: int, expected: tuple[int, int, int, int]
) -> None:
    place = Placement.of(image_size, side, "pad")
    assert (place.top, place.left, place.height, place.width) == expected
    assert Placement.of(image_size, side, "stretch") == Placement(side, 0, 0, side, side)


def test_unknown_aspect_is_named() -> None:
    with pytest.raises(ValueError, match=r"aspect must be one of .*'crop'"):
        resize(picture(0), 32, "crop")


@pytest.mark.parametrize("size", [(90, 270), (270, 90), (200, 170), (128, 128)])
def test_sampled_feature_is_the_pixel_at_the_mapped_place(size: tuple[int, int]) -> None:
    """The photograph's colors are its coordinates, going on in the padding: sampling them as the
    network samples gives the coordinates that the mapping says."""
    place = Placement.of(size, 128, "pad")
    scale = size[0] / place.height, size[1] / place.width
    rows = (torch.arange(128) + 0.5 - place.top) * scale[0] - 0.5
    columns = (torch.arange(128) + 0.5 - place.left) * scale[1] - 0.5
    shown = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].float()
    maps = torch.nn.functional.avg_pool2d(shown, 16)  # a patch embedding: 8×8 cells
    points = torch.rand(1, 50, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sampled = sample_bilinear(maps, points)[0, :, :, 0].T.numpy()  # 50×2
    pixels = to_pixels(points[0, :, 0].numpy(), (8, 8), size, place)
    np.testing.assert_allclose(pixels, sampled, atol=1e-3)
    corners = to_pixels(np.array([[-1, -1], [1, 1]]), (128, 128), size, place)
    half = np.divide(size, (place.height, place.width)) / 2  # of a network pixel
    frame = np.reshape(place.frame(size), (2, 2))  # (top, left), (bottom, right)
    np.testing.assert_allclose(corners, np.stack([frame[0] + half, frame[1] - half]))


@pytest.mark.parametrize("size", [(500, 400), (33, 77), (900, 37), (37, 900), (1, 1), (10, 1000)])
@pytest.mark.parametrize("side", [96, 128])
def test_exported_resize_is_the_same_bit_for_bit(size: tuple[int, int], side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    expected = resize(Image.fromarray(pixels), side, "pad")
    photo = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(pillow_resize(photo, side, "pad")[0], expected)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ColorAesthetics, Path]:
    """A network that was made with aspect="pad", back from its weights folder."""
    folder = tmp_path_factory.mktemp("padded")
    model = lively_nano(aspect="pad", point_pooling="image")
    model = load_model(save(model, folder / "weights"))
    assert model.config.aspect == "pad"
    return model, folder


def test_every_way_of_scoring_pads(
    padded: tuple[ColorAesthetics, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line, Python, page in the browser, ONNX; the network itself on the padded pixels."""
    model, folder = padded
    photos = [picture(1, 300, 90), picture(2, 50, 220), picture(3, 100, 100)]
    paths = [str(folder / f"{index}.png") for index in range(len(photos))]
    for photo, path in zip(photos, paths, strict=True):
        photo.save(path)
    with torch.no_grad():
        inputs = torch.stack([normalise(resize(photo, 128, "pad")) for photo in photos])
        expected = model.label_scale.from_unit(model(inputs)).numpy()
        stretched = torch.stack([normalise(resize(photo, 128)) for photo in photos])
        apart = np.abs(model.label_scale.from_unit(model(stretched)).numpy() - expected)
    assert apart[:2].max(axis=1).min() > 0.05, "padding has to matter here"
    assert apart[2].max() < 1e-4, "a square photograph is not padded"

    scores = [list(row.values()) for row in model.score(paths)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    rows = Scorer(model).score(paths)
    np.testing.assert_allclose([[r["MOS"], r["color"]] for r in rows], expected, atol=1e-4)
    weights, out = str(folder / "weights"), str(folder / "out.csv")
    command = ["predict.py", *paths, "--weights", weights, "--out", out, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    assert predict.main() == 0
    lines = (folder / "out.csv").read_text().splitlines()
    header, *rows = (line.split(",") for line in lines)
    columns = [header.index(name) for name in ("MOS", "color")]
    found = [[float(row[column]) for column in columns] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-4)

    export(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    found = [session.run(["scores"], {"photos": np.array(p)[None]})[0][0] for p in photos]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_sweep_changes_the_photograph_not_its_padding(
    padded: tuple[ColorAesthetics, Path],
) -> None:
    model, photo = padded[0], picture(1, 300, 90)
    sweep = compute_sweep(model, photo, "exposure")
    neutral = sweep.steps.index(0)
    np.testing.assert_allclose(sweep.scores[neutral], list(model.score(photo).values()), atol=1e-4)
    width, height = sweep.variants[0].size
    assert width / height == pytest.approx(300 / 90, rel=0.02)
    brightest = np.array(sweep.variants[-1])  # of the photograph alone: no mean-colored border
    assert (np.abs(brightest[[0, -1]].astype(int) - PADDING).max(axis=-1) > 2).mean() > 0.9


@pytest.mark.parametrize(("width", "height"), [(320, 120), (120, 320)])
def test_points_on_the_padding_are_drawn_on_the_padding(width: int, height: int) -> None:
    """Places worked out by hand: in 8×8 cells over 128 pixels, of which the photograph takes 48."""
    places = torch.zeros(64, 2)
    places[0] = torch.tensor([0.9, 0.9])  # the closed one
    places[1] = torch.tensor([-1.0, -1.0])  # pixel 7.5 of the square
    places[2] = torch.tensor([1.0, 1.0])  # pixel 119.5
    model = PatchModel(places)
    model.config = dataclasses.replace(model.config, aspect="pad")
    image = Image.new("RGB", (width, height), (200, 30, 30))
    explanation = explain_image(model, image)
    keys = explanation.points.keys[:2]
    scale, start = 128 / 320, 40  # network pixels a photograph's pixel; first of the photograph
    along = [(8 / scale) - 0.5, (120 / scale) - 0.5]
    across = [(8 - start) / scale - 0.5, (120 - start) / scale - 0.5]
    expected = [across, along] if width > height else [along, across]
    np.testing.assert_allclose(keys, np.transpose(expected), rtol=1e-5)
    np.testing.assert_allclose(explanation.points.keys[-1], [(height - 1) / 2, (width - 1) / 2])

    panels = {axes.get_title()[:3]: axes for axes in draw(explanation, "padded").axes}
    drawn = np.concatenate([dots.get_offsets() for dots in panels["(d)"].collections])
    for key in keys:
        assert np.abs(drawn - key[::-1]).max(axis=1).min() < 1e-3, "drawn where it was read"
    left, right = sorted(panels["(d)"].get_xlim())
    top, bottom = sorted(panels["(d)"].get_ylim())
    assert (right - left, bottom - top) == pytest.approx((320, 320))
    photo = panels["(d)"].images[0].get_extent()
    assert tuple(photo) == (-0.5, width - 0.5, height - 0.5, -0.5)
    heat = panels["sal"].images[1].get_extent()
    assert heat == pytest.approx((left, right, bottom, top))


def test_training_pads_as_the_network_says(tmp_path: Path) -> None:
    flags = write_tiny_dataset(tmp_path)  # images of 32 × 24
    config = resolve_config([*flags, "--aspect", "pad"], {})
    model = build_network(config, ("quality", "beauty"))
    setting = Setting(config, torch.device("cpu"), build_splits(config))
    pixels, _, indices = next(iter(build_loader(setting, "test", model.config)))
    paths = [setting.splits["test"].paths[index] for index in indices]
    expected = [normalise(resize(Image.open(path), 128, "pad")) for path in paths]
    torch.testing.assert_close(pixels.to(model, "cpu"), torch.stack(expected))
