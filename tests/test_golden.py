"""Parity with the released implementation, through the released names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import golden
from models import to_released_state_dict
from models.released import SLOPES, SLOPES_TIED, rename_table


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_outputs(shared: Path, name: str) -> None:
    description, _, arrays = golden.read(shared, name)
    model, _ = golden.build(shared, name)
    images = golden.images(description)
    with torch.inference_mode():
        explanation = model.explain(images)
        scores = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    expected = {
        "scores": explanation.scores,
        "scores_one_by_one": alone,
        "pooled": explanation.pooled,
        "color_points": explanation.color_points,
        "color_space_weights": explanation.color_space_weights,
    }
    for layer in explanation.layers:
        prefix = f"stage{layer.stage}_block{layer.block}"
        expected[f"{prefix}_points"] = layer.points
        expected[f"{prefix}_interest_points"] = layer.interest_points
    assert set(arrays) - set(expected) == {
        *(f"stage{s}_mean_abs" for s in (1, 2, 3, 4)),
        "loss",
    }
    for key, value in expected.items():
        np.testing.assert_allclose(value, arrays[key], atol=2e-4, rtol=0, err_msg=key)
    np.testing.assert_allclose(scores, arrays["scores"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_stage_outputs(shared: Path, name: str) -> None:
    description, _, arrays = golden.read(shared, name)
    model, _ = golden.build(shared, name)
    found = {}
    for stage in model.stages:
        stage.register_forward_hook(
            lambda stage, _, maps: found.update({stage.number: maps.abs().mean(dim=(1, 2, 3))})
        )
    with torch.inference_mode():
        model(golden.images(description))
    for number in (1, 2, 3, 4):
        np.testing.assert_allclose(found[number], arrays[f"stage{number}_mean_abs"], atol=2e-4)


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_loss_and_gradients(shared: Path, name: str) -> None:
    description, _, _ = golden.read(shared, name)
    model, _ = golden.build(shared, name)
    scores = model(golden.images(description))
    loss = F.mse_loss(scores, golden.target(description, tuple(scores.shape)))
    loss.backward()
    assert abs(loss.item() - description["loss"]) < 1e-5
    norms = {}
    for ours, row in rename_table(model).items():
        gradient = model.get_parameter(ours).grad
        if gradient is not None:
            norms[row.name] = gradient.norm().item()
    expected = description["grad_norms"]
    expected = {SLOPES if key == SLOPES_TIED else key: value for key, value in expected.items()}
    assert norms.keys() == expected.keys()
    # In float64 a norm is at least 1e-5, or 0 as where all points of a layer lie in the centre. Of
    # the zeros float32 makes up to 2e-8: rounding, the released code's or ours.
    for key, value in expected.items():
        assert norms[key] == pytest.approx(value, rel=1e-3, abs=1e-8), key


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_state_dict_round_trip(shared: Path, name: str) -> None:
    _, keys, _ = golden.read(shared, name)
    model, state = golden.build(shared, name)
    back = to_released_state_dict(model)
    shapes = {key: entry["shape"] for key, entry in keys["parameters"].items()} | keys["buffers"]
    assert {key: list(value.shape) for key, value in back.items()} == shapes
    for key, value in state.items():
        assert torch.equal(back[key], value), key


def test_released_parameter_count(shared: Path) -> None:
    description, _, _ = golden.read(shared, "icaa17k_base")
    model, _ = golden.build(shared, "icaa17k_base")
    frozen_ones = 2 * 36 * 6  # constants of the released color-space layer, not held by ours
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count + frozen_ones == description["params"] == 86_912_997
