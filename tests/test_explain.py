"""What is drawn lies where the network looked, in the photograph's own pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from viewing import PatchModel, row, tiny_model

from explain import draw, explain_photo, headline, short_name
from explanation import explain_image
from geometry import to_map, to_pixels
from models import build_model
from models.sampling import sample_bilinear
from palette import dominant_colors
from preprocessing import normalise, resize
from saliency import saliency

PATCH = 40  # pixels


def photo_with_patch(width: int, height: int, x: int, y: int) -> Image.Image:
    """Black, with a red square whose upper left corner is at (x, y)."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 0, 0), (x, y, x + PATCH, y + PATCH))
    return image


def in_patch(places: np.ndarray, x: int, y: int, margin: float = 0.0) -> np.ndarray:
    """Which (y, x) pixels lie inside the patch widened by `margin`."""
    inside = (places > [y - 0.5 - margin, x - 0.5 - margin]) & (
        places < [y + PATCH - 0.5 + margin, x + PATCH - 0.5 + margin]
    )
    return inside.all(axis=-1)


def test_pixels_worked_out_by_hand() -> None:
    """A 4×2 map over 100×300 pixels: cells of 25×150, whose centres are 12 and 74.5 pixels in."""
    points = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-1 / 3, 1.0]])
    pixels = to_pixels(points, (4, 2), (100, 300))
    expected = [[12, 74.5], [87, 224.5], [49.5, 149.5], [37, 224.5]]
    np.testing.assert_allclose(pixels, expected)


@pytest.mark.parametrize("size", [(90, 270), (270, 90), (128, 128)])
def test_sampled_feature_is_the_pixel_at_the_mapped_place(size: tuple[int, int]) -> None:
    """The photograph's colors are its coordinates; sampling them as the network samples must give
    the coordinates that the mapping says, well below a cell (11 to 34 pixels here)."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    squeezed = torch.from_numpy(np.stack([y, x]).astype(np.float32))[None]
    squeezed = torch.nn.functional.interpolate(squeezed, (128, 128), mode="bilinear")
    maps = torch.nn.functional.avg_pool2d(squeezed, 16)  # a patch embedding: 8×8 cells
    points = torch.rand(1, 50, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sampled = sample_bilinear(maps, points)[0, :, :, 0].T.numpy()  # 50×2
    pixels = to_pixels(points[0, :, 0].numpy(), (8, 8), size)
    np.testing.assert_allclose(pixels, sampled, atol=0.3)


def test_maps_of_two_sizes_agree_on_pixels() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    other = to_map(points, (14, 14), (7, 7))
    pixels = to_pixels(points, (14, 14), (80, 200))
    np.testing.assert_allclose(to_pixels(other, (7, 7), (80, 200)), pixels)


@pytest.mark.parametrize(
    ("width", "height", "x", "y"),
    [(320, 120, 20, 60), (320, 120, 250, 10), (120, 320, 10, 240), (120, 320, 70, 30)],
)
def test_points_and_saliency_follow_a_moved_patch(width: int, height: int, x: int, y: int) -> None:
    places = torch.rand(64, 2, generator=torch.Generator().manual_seed(1)) * 1.9 - 0.95
    places[0] = torch.tensor([0.9, -0.9])  # the closed one
    explanation = explain_image(PatchModel(places), photo_with_patch(width, height, x, y))

    # Saliency: the strongest place of the stretched map lies in the patch, its mean at the centre.
    heat = explanation.saliency
    positive = heat.clip(min=0) ** 2
    rows, columns = np.mgrid[: heat.shape[0], : heat.shape[1]]
    centre_y = (positive * (rows + 0.5)).sum() / positive.sum() / heat.shape[0] * height - 0.5
    centre_x = (positive * (columns + 0.5)).sum() / positive.sum() / heat.shape[1] * width - 0.5
    assert abs(centre_y - (y + PATCH / 2)) < height / heat.shape[0] / 3
    assert abs(centre_x - (x + PATCH / 2)) < width / heat.shape[1] / 3

    # Color spaces: red's second space within the patch and nowhere else. Near its edge the cells
    # mix red and black, so points closer than a cell to it may go either way.
    keys, spaces = explanation.points.keys, explanation.segmentation.spaces
    cell = max(width, height) / 8
    inner, outer = in_patch(keys, x, y), in_patch(keys, x, y, margin=1.5 * cell)
    assert inner.any()
    assert (spaces[~outer] == 0).all()
    assert (spaces[inner] == 1).mean() > 0.5
    assert outer[spaces == 1].all()
    assert explanation.segmentation.ranks.tolist() == [1, 2]

    # The figure's dots are these points, and the closed gate's is grey.
    axes = draw(explanation, "patch").axes
    panels = {a.get_title()[:3]: a for a in axes}
    drawn = {dots.get_label(): dots for dots in panels["(d)"].collections}
    shown = drawn["2"].get_offsets()[:, ::-1]
    np.testing.assert_allclose(np.sort(shown, axis=0), np.sort(keys[spaces == 1], axis=0))
    grey = panels["(b)"].collections[0].get_offsets()[0]
    np.testing.assert_allclose(
        grey[::-1], to_pixels(np.array([0.9, -0.9]), (8, 8), (height, width)), rtol=1e-5
    )
    left, right, bottom, top = panels["(d)"].images[0].get_extent()
    assert (left, right, bottom, top) == (-0.5, width - 0.5, height - 0.5, -0.5)


def test_segmentation_by_hand() -> None:
    """Features (.25, .25, .25) lie in the first spaces; red .75 moves to the second, as the score
    head heeds red's second space a hundred times as much as the rest."""
    model = PatchModel(torch.zeros(64, 2))
    low = explain_image(model, Image.new("RGB", (50, 90), (64, 64, 64)))
    high = explain_image(model, Image.new("RGB", (50, 90), (191, 64, 64)))
    assert set(low.segmentation.spaces) == {0}
    assert set(high.segmentation.spaces) == {1}
    np.testing.assert_allclose(high.space_weights, [[0, 1], [1, 0], [1, 0]], atol=0.01)
    np.testing.assert_array_equal(high.segmentation.ranks, [2, 1])


@pytest.mark.parametrize("name", ["delegate_nano", "delegate_cnn"])
def test_saliency_is_grad_cam_less_its_mean(name: str) -> None:
    """Against Grad-CAM written out; the network comes back as it was."""
    torch.manual_seed(0)
    options = {"backbone": "resnet18"} if name == "delegate_cnn" else {}
    model = tiny_model() if name == "delegate_nano" else build_model(name, recipe="ours", **options)
    model.train(name == "delegate_cnn")
    frozen = next(model.parameters()).requires_grad_(False)
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    found = saliency(model, images)
    assert model.training == (name == "delegate_cnn")
    assert [p for p in model.parameters() if not p.requires_grad][:1] == [frozen]
    assert all(p.grad is None for p in model.parameters())

    frozen.requires_grad_(True)
    model.eval()
    for i, image in enumerate(images):
        maps = model.forward_maps(image[None], None).detach().requires_grad_()
        score = model.label_scale.from_unit(model.head(maps.mean(dim=(1, 2)))[0])[0, -1]
        gradient = torch.autograd.grad(score, maps)[0].mean(dim=(1, 2), keepdim=True)
        cam = (gradient * maps).sum(dim=-1)[0].detach()
        cam = cam - cam.mean()
        np.testing.assert_allclose(found[i], (cam / cam.abs().max()).numpy(), atol=1e-3)


def test_keys_and_attention_are_the_layers() -> None:
    model, image = tiny_model(), Image.effect_noise((90, 60), 90).convert("RGB")
    points = explain_image(model, image).points
    with torch.inference_mode():
        layers = model.explain(normalise(resize(image, 128))[None]).layers
    layer = [layer for layer in layers if layer.stage == 3][-1]
    heads, count = layer.attention.shape[1], layer.attention.shape[-1]
    shares = layer.attention[0].sum(dim=(0, 1)) / (heads * count)  # over the groups' heads
    is_open = layer.gate.flatten() > 0.5
    assert 0 < is_open.sum() < count, "a network with open and closed gates is needed here"
    np.testing.assert_array_equal(points.is_open, is_open.numpy())
    assert points.attention.sum() == pytest.approx(1, abs=1e-5)
    assert points.attention[-1] == pytest.approx(float(shares[~is_open].sum()), abs=1e-5)
    groups = layer.points.shape[1]
    open_shares = points.attention[:-1].reshape(groups, -1).sum(axis=0)
    np.testing.assert_allclose(open_shares, shares[is_open].numpy(), atol=1e-6)
    np.testing.assert_allclose(points.keys[-1], [29.5, 44.5])  # the centre of 90×60


def test_dominant_colors_of_a_flag() -> None:
    flag = Image.new("RGB", (90, 40), (200, 30, 30))
    flag.paste((20, 60, 160), (0, 0, 27, 40))
    flag.paste((250, 250, 250), (27, 0, 36, 40))
    swatches = dominant_colors(flag, count=6)
    assert [round(swatch.share, 2) for swatch in swatches] == [0.6, 0.3, 0.1]
    rgb = np.rint([np.multiply(swatch.rgb, 255) for swatch in swatches])
    np.testing.assert_allclose(rgb, [[200, 30, 30], [20, 60, 160], [250, 250, 250]], atol=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delegate_nano", {"variant": "spaq"}),  # no gate
        ("delegate_nano", {"variant": "ava"}),  # no color spaces, a distribution
        ("delegate_nano", {"color_spaces": 12, "offsets": False, "targets": ("path",)}),
        ("delegate_nano", {"recipe": "released"}),  # points of the batch
    ],
)
def test_every_kind_of_network_gets_its_figure(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    model = build_model(name, **options).eval()
    photo = Image.effect_noise((40, 200), 60).convert("RGB")
    scores = model.score(photo)
    result = {f"score_{n}" if n == "path" else n: score for n, score in scores.items()}
    paths = {
        explain_photo(model, photo, tmp_path, {"path": path, "percentile": None, **result})
        for path in ("a/x.jpg", "b/x.jpg")
    }
    assert len(paths) == 2
    for path in paths:
        with Image.open(path) as figure:
            assert np.asarray(figure).std() > 20
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_title_has_the_reported_score_first() -> None:
    result = row(tiny_model(), "holiday/sea.jpg", Image.new("RGB", (9, 9), "teal"))
    title = headline(result, ("MOS", "color"))
    assert title.startswith(f"sea.jpg:  color {result['color']:.2f} (percentile ")
    assert f"MOS {result['MOS']:.2f}" in title
    assert short_name(f"x/{'a' * 30}{'b' * 30}.jpeg") == f"{'a' * 25}…{'b' * 9}.jpeg"
    assert short_name("x/\udcff.jpg") == "?.jpg"
