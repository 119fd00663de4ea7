"""point_pooling="running": interest points and gates kept like a BatchNorm statistic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import nano, photographs, point_layer, point_layers
from PIL import Image
from torch import nn

from errors import UserError
from models import ModelConfig, load_model, load_weights, save_model, set_point_pooling
from preprocessing import normalise, resize


def test_running_averages_by_hand() -> None:
    layer = point_layer(pooling="running", interest_kernel=2)
    batches = torch.randn(3, 4, 8, 8, 12, generator=torch.Generator().manual_seed(3))
    expected = torch.zeros(1, 7, 7, 2)
    with torch.no_grad():
        for batch in batches:
            trace: list = []
            layer(batch, trace)
            mean = layer.interest_net(batch).mean(dim=0, keepdim=True)
            expected = 0.9 * expected + 0.1 * mean
            torch.testing.assert_close(trace[0].interest_points, mean[0].tanh())  # as in "batch"
    torch.testing.assert_close(layer.running_interest, expected)
    trace = []
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.eval()(batches[0], trace)
    torch.testing.assert_close(trace[0].interest_points, expected[0].tanh())
    torch.testing.assert_close(trace[0].gate, (layer.running_gate[0, ..., 0] < 0).float())
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())


def running_nano() -> nn.Module:
    """Trained for two steps' worth of averages, none of them for its weights."""
    model = nano(point_pooling="running", stages="GSGG", interest_kernel=2, recipe="ours")
    with torch.no_grad():
        for layer in point_layers(model):
            layer.interest_net.weight.mul_(20)
            layer.position_bias_table.mul_(100)
        model(photographs(4))
        model(photographs(2))
    return model.eval()


def test_running_scores_do_not_depend_on_the_batch() -> None:
    model = running_nano()
    images = photographs(4)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    set_point_pooling(model, "image")
    with torch.inference_mode():
        assert (model(images) - together).abs().max() > 1e-4  # each image's own points differ


def test_scoring_uses_the_running_averages() -> None:
    model = running_nano()
    photos = [Image.effect_noise((150, 128), sigma).convert("RGB") for sigma in (20, 90)]
    pixels = torch.stack([normalise(resize(photo, 128)) for photo in photos])
    with torch.inference_mode():
        expected = model(pixels)[:, -1] * 10
    found = [scores["color"] for scores in model.score(photos)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert model.config.point_pooling == "running"


def test_running_averages_are_saved(tmp_path: Path) -> None:
    model = running_nano()
    save_model(model, tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)(photographs()), model(photographs()))


def test_weights_without_running_averages(tmp_path: Path) -> None:
    source = nano(recipe="ours")
    model = nano(recipe="ours", point_pooling="running")
    report = load_weights(model, source.state_dict())
    assert len(report.missing) == 4
    assert "0 missing, 4 running averages of points missing: train to fill them" in str(report)
    assert not load_weights(source, model.state_dict()).missing
    with pytest.raises(UserError, match="trained without it"):
        set_point_pooling(source, "running")
    config = {**source.config.to_dict(), "point_pooling": "running"}
    source.config = ModelConfig.from_dict(config)
    save_model(source, tmp_path)
    with pytest.raises(UserError, match=r"incomplete: .* 4 running averages"):
        load_model(tmp_path)
