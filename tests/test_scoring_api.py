"""model.score: what it takes, on which scale it answers, and that each score stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scorers import EXTRA, lively_nano, picture, save

from errors import UserError
from models import LabelScale, build_model, load_model, to_released_state_dict
from models.loading import recognise
from preprocessing import normalise


def test_score_is_the_forward_pass_on_the_label_scale(tmp_path: Path) -> None:
    model = lively_nano(point_pooling="image")
    path = tmp_path / "a.png"
    picture(3).save(path)
    resized = np.array(picture(3).resize((128, 128), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None]
    with torch.no_grad():
        unit = model(normalise(pixels))[0]
    expected = {"MOS": 1 + 8 * unit[0].item(), "color": 1 + 8 * unit[1].item()}
    assert model.score(path) == pytest.approx(expected, abs=1e-5)


def test_all_kinds_of_photograph_give_the_same_score(tmp_path: Path) -> None:
    model, path = lively_nano(), tmp_path / "a.png"
    image = picture(1)
    image.save(path)
    array = np.array(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [path, str(path), image, image.convert("RGBA"), array, tensor, tensor.float() / 255]
    first = model.score(path)
    for scores in model.score(kinds):
        assert scores == pytest.approx(first, abs=1e-5)
    assert model.score([]) == []


def test_exif_orientation_counts_for_images_in_memory(tmp_path: Path) -> None:
    model, exif = lively_nano(), Image.Exif()
    exif[0x0112] = 6
    picture(2).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as image:
        in_memory = model.score(image)
    assert in_memory == model.score(tmp_path / "turned.jpg")


@pytest.mark.parametrize("pooling", ["batch", "image"])
def test_a_score_does_not_depend_on_batch_order_or_neighbours(pooling: str) -> None:
    model = lively_nano(point_pooling=pooling)
    photos = [picture(seed) for seed in range(7)]
    alone = [model.score(photo)["color"] for photo in photos]
    assert np.ptp(alone) > 0.05
    for batch_size in (2, 7):
        scores = [row["color"] for row in model.score(photos[::-1], batch_size=batch_size)]
        np.testing.assert_allclose(scores[::-1], alone, atol=2e-5)
    pixels = torch.stack([torch.from_numpy(np.array(p.resize((128, 128)))) for p in photos])
    with torch.no_grad():  # what scoring leaves behind is the network as it was
        together = model(normalise(pixels.permute(0, 3, 1, 2)))
        single = torch.cat([model(normalise(p.permute(2, 0, 1)[None])) for p in pixels])
    assert torch.allclose(together, single, atol=1e-5) == (pooling == "image")
    assert model.config.point_pooling == pooling


def test_training_goes_on_after_scoring() -> None:
    model = lively_nano().train()
    once, twice = model.score(picture(0)), model.score(picture(0))
    assert once == twice  # no stochastic depth
    assert model.training


def test_what_is_no_photograph() -> None:
    model = lively_nano()
    for bad in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        torch.zeros(2, 3, 4, 4),
        torch.full((3, 4, 4), 2.0),
        7,
        "absent.jpg",
    ):
        with pytest.raises(UserError):
            model.score(bad)
    with pytest.raises(UserError, match="batch size 0"):
        model.score([picture(0)], batch_size=0)


def test_label_scale_and_percentile() -> None:
    config = lively_nano().config
    scale = LabelScale.of(config, EXTRA)
    assert scale.percentile("MOS", 4.25) == pytest.approx(42.5)
    assert scale.percentile("color", 1 + 0.09 * 31) == pytest.approx(31)
    assert (scale.percentile("color", 0), scale.percentile("color", 11)) == (0, 100)
    assert LabelScale.of(config, {}).percentile("color", 5) is None
    assert LabelScale.of(config, {}).from_unit(torch.tensor([[0.25, 0.5]])).tolist() == [[2.5, 5]]
    custom = build_model("delegate_nano", targets=("beauty",)).config
    assert LabelScale.of(custom, {}).high == 1
    ava = LabelScale.of(build_model("delegate_nano", "ava").config, {})
    shares = torch.tensor([[0.5] + [0.0] * 8 + [0.5], [0.0, 1.0] + [0.0] * 8])
    assert (ava.names, ava.from_unit(shares).tolist()) == (("rating",), [[5.5], [2.0]])


def test_every_kind_of_weights(tmp_path: Path) -> None:
    model = lively_nano()
    best = save(model, tmp_path / "run" / "best")
    (tmp_path / "bare.safetensors").write_bytes((best / "model.safetensors").read_bytes())
    torch.save(to_released_state_dict(model, tied=True), tmp_path / "released.pth")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "ours.pth")
    expected = model.score(picture(0))
    for name in ("run", "run/best", "run/best/model.safetensors"):
        assert load_model(tmp_path / name).score(picture(0)) == expected
    for name in ("bare.safetensors", "released.pth", "ours.pth"):
        loaded = load_model(str(tmp_path / name))
        assert loaded.extra == {}
        unit = [(value - 1) / 8 for value in expected.values()]
        scores = [value / 10 for value in loaded.score(picture(0)).values()]
        assert scores == pytest.approx(unit, abs=1e-5)


def test_released_networks_are_recognised() -> None:
    for name, variant, targets in [
        ("delegate_nano", "icaa17k", ("color",)),
        ("delegate_nano", "spaq", ("Colorfulness",)),
        ("delegate_nano", "ava", tuple(map(str, range(1, 11)))),
        ("delegate_small", "icaa17k", ("MOS", "color")),
    ]:
        with torch.device("meta"):
            model = build_model(name, variant, targets=targets)
        found = recognise(model.state_dict())
        assert (found.name, found.variant, found.targets) == (name, variant, targets)
    state = to_released_state_dict(lively_nano())
    body = {key: value for key, value in state.items() if "class_head" not in key}
    with pytest.raises(UserError, match="lacks a score head"):
        recognise(body)
    with pytest.raises(UserError, match="not recognised"):
        recognise({"fc.weight": torch.zeros(2, 2)})
