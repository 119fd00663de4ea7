"""The paper's ablations as options: kinds of attention, kernels, the gate's gradient, pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import nano, photographs, point_layer, point_layers
from PIL import Image
from plain_attention import plain_attention

from errors import UserError
from explanation import explain_image
from geometry import to_pixels
from models import (
    ModelConfig,
    build_model,
    count_flops,
    load_weights,
    to_released_state_dict,
)
from models.delegate_attention import hard_gate
from models.layers import offset_groups
from models.options import ARCHITECTURES
from models.window_attention import WindowAttention
from preprocessing import normalise, resize

TABLE_5 = ("SSSS", "SSDD", "SSGG", "GGSS", "SGGS", "GSSG", "GGGG")
TABLE_6 = ({}, {"offsets": False}, {"gate": False}, {"color_spaces": 0})


# ------------------------------------------------------------------------- kinds of attention


@pytest.mark.parametrize("removed", TABLE_6, ids=str)
@pytest.mark.parametrize("stages", TABLE_5)
def test_table_5_by_table_6_learns(stages: str, removed: dict[str, object]) -> None:
    model = nano(stages=stages, interest_kernel=2, gate_gradient="straight_through", **removed)
    model(photographs()).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    layers = model.explain(photographs(1)).layers
    assert [layer.stage for layer in layers] == [i + 1 for i in range(4) if stages[i] != "S"]
    for layer in layers:
        kind = stages[layer.stage - 1]
        assert (layer.gate is not None) == (kind == "G" and removed.get("gate", True))
        assert (layer.offsets is not None) == removed.get("offsets", True)


@pytest.mark.parametrize("stages", ["DDDD", "GDSG", "DSGD"])
def test_any_word_learns(stages: str) -> None:
    model = nano(stages=stages)
    model(photographs()).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    kinds = [layer.interest_net is None for layer in point_layers(model)]
    assert kinds == [letter == "D" for letter in stages if letter != "S"]


def test_default_is_the_papers_best() -> None:
    for name in ("delegate_nano", "delegate_cnn"):
        for recipe in ("released", "ours"):
            config = build_model(name, recipe=recipe).config
            found = (config.stages, config.interest_kernel, config.gate_gradient, config.aspect)
            assert found == ("SSGG", 1, "none", "stretch")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interest_kernel": 3},
        {"interest_kernel": 9},  # the kernel is clipped to the map: one point
        {"stride": 2, "offset_kernel": 5, "interest_kernel": 2},
        {"interest": False},
        {"interest": False, "stride": 4, "offset_kernel": 5},
        {"gate": False, "offsets": False, "stride": 2, "groups": 1},
        {"interest": False, "offsets": False},
    ],
    ids=str,
)
def test_layers_equal_scipys(options: dict[str, object]) -> None:
    layer = point_layer(**options).double()
    x = torch.randn(2, 8, 8, 12, generator=torch.Generator().manual_seed(2)).double()
    with torch.inference_mode():
        found = layer(x).numpy()
        trace: list = []
        np.testing.assert_allclose(layer(x, trace).numpy(), found, atol=1e-12)
    expected = np.stack([plain_attention(layer, image) for image in x.numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_points_stay_bounded_in_early_stages() -> None:
    with torch.device("meta"):
        model = build_model("delegate_base", stages="GDGD", point_pooling="image").eval()
        layers = model.explain(torch.empty(1, 3, 224, 224)).layers
    sizes = {layer.stage: (layer.map_size, tuple(layer.points.shape)) for layer in layers}
    assert sizes == {
        1: ((56, 56), (1, 1, 14, 14, 2)),
        2: ((28, 28), (1, 2, 14, 14, 2)),
        3: ((14, 14), (1, 4, 14, 14, 2)),
        4: ((7, 7), (1, 8, 7, 7, 2)),
    }


def test_groups_split_heads_and_channels_evenly() -> None:
    for name, net in ARCHITECTURES.items():
        for stage in (3, 4) if name == "delegate_cnn" else (1, 2, 3, 4):
            groups = offset_groups(net, stage)
            assert net.heads[stage - 1] % groups == net.dims[stage - 1] % groups == 0


def test_a_window_as_large_as_the_map_is_not_shifted() -> None:
    model = nano(stages="SSSS")
    shifts = [stage.blocks[1].attention.shift for stage in model.stages]
    assert shifts == [2, 2, 2, 0]  # maps of 32, 16, 8, 4 with windows of 4
    assert all(isinstance(s.blocks[1].attention, WindowAttention) for s in model.stages)


def test_the_cnns_first_stages_are_its_backbones() -> None:
    options = {"backbone": "resnet18", "recipe": "ours"}
    model = build_model("delegate_cnn", stages="SSDS", **options).eval()
    layers = model.explain(torch.zeros(1, 3, 224, 224)).layers
    assert [(layer.stage, layer.gate) for layer in layers] == [(3, None)]
    with pytest.raises(UserError, match="its first two letters are SS"):
        build_model("delegate_cnn", stages="GGSS", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "SSG"}, "four letters of S, D, G"),
        ({"stages": "SSGX"}, "'SSGX'"),
        ({"interest_kernel": 0}, "1 to 10: 0"),
        ({"interest_kernel": 11}, "1 to 10: 11"),
        ({"interest_kernel": 2.0}, "must be of type int"),
        ({"gate_gradient": "soft"}, "must be one of"),
        ({"aspect": "crop"}, "must be one of"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model("delegate_nano", **options)


def test_configurations_saved_before_these_options_are_read() -> None:
    config = nano(recipe="ours").config
    old = config.to_dict()
    for key in ("stages", "interest_kernel", "gate_gradient", "aspect"):
        del old[key]
    assert ModelConfig.from_dict(old) == build_model("delegate_nano", recipe="ours",
                                                     drop_path=0.0).config  # fmt: skip


# ------------------------------------------------------------------------- kernels of Net_i


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        (14, [196, 169, 144, 121, 100, 81, 64, 49, 36, 25]),
        (7, [49, 36, 25, 16, 9, 4, 1, 1, 1, 1]),
    ],
)
def test_larger_kernels_give_fewer_points(size: int, counts: list[int]) -> None:
    found = []
    for k in range(1, 11):
        trace: list = []
        layer = point_layer(size, interest_kernel=k)
        layer(torch.zeros(1, size, size, 12), trace)
        found.append(trace[0].points.shape[2] * trace[0].points.shape[3])
        assert trace[0].attention.shape == (1, 4, size**2, found[-1])
    assert found == counts


def test_fewer_points_cost_less() -> None:
    costs = [count_flops(nano(interest_kernel=k)) for k in (1, 3, 5)]
    assert costs == sorted(set(costs), reverse=True)


def test_explanations_of_any_grid_of_points() -> None:
    image = Image.effect_noise((90, 60), 90).convert("RGB")
    for stages, stage, side, count in (("SSGG", 3, 8, 36), ("GGSS", 2, 16, 36)):
        model = nano(stages=stages, interest_kernel=3, recipe="ours").eval()
        points = explain_image(model, image).points
        with torch.inference_mode():
            layers = model.explain(normalise(resize(image, 128))[None]).layers
        layer = next(layer for layer in layers if layer.stage == stage)
        expected = to_pixels(layer.interest_points.reshape(-1, 2).numpy(), (side, side), (60, 90))
        np.testing.assert_allclose(points.interest, expected, atol=1e-3)
        assert points.is_open.shape == (count,)
        assert points.attention.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="stages are all S"):
        explain_image(nano(stages="SSSS").eval(), image)


# ------------------------------------------------------------------------- gradient of the gate


def test_straight_through_gate_by_hand() -> None:
    logits = torch.tensor([-2.0, -0.5, 0.0, 0.3, 4.0], requires_grad=True)
    hard, soft = hard_gate(logits, "none"), hard_gate(logits, "straight_through")
    assert torch.equal(hard, torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0]))
    assert torch.equal(soft, hard)
    slope = torch.sigmoid(-logits) * (torch.sigmoid(-logits) - 1)  # of sigmoid(−x)
    torch.testing.assert_close(torch.autograd.grad(soft.sum(), logits)[0], slope)
    own = torch.autograd.grad(hard.sum(), logits)[0]
    torch.testing.assert_close(own, torch.tensor([0.0, 0.0, -99999 / 4, 0.0, 0.0]))


def test_only_the_straight_through_gate_learns() -> None:
    scores, gradients = {}, {}
    for gradient in ("none", "straight_through"):
        model = nano(gate_gradient=gradient, recipe="ours")
        score = model(photographs())
        score.sum().backward()
        scores[gradient] = score
        gradients[gradient] = torch.cat(
            [layer.gate_net.weight.grad.flatten() for layer in point_layers(model)]
        )
    assert torch.equal(scores["none"], scores["straight_through"])
    assert gradients["straight_through"].abs().min() > 0
    assert gradients["none"].isfinite().all()
    assert gradients["none"].norm() < 1e-3 * gradients["straight_through"].norm()


# ------------------------------------------------------------------------- weights of other kinds


@pytest.mark.parametrize("options", [{"stages": "GDGD"}, {"interest_kernel": 3}], ids=str)
def test_released_names_cover_the_ablations(options: dict[str, object]) -> None:
    model = nano(**options, point_pooling="running")
    state = to_released_state_dict(model)
    side = options.get("interest_kernel", 1)
    assert state["stages.2.attns.1.ref_point14.weight"].shape == (2, 96, side, side)
    assert ("stages.0.attns.1.ref_gate.weight" in state) == ("stages" in options)
    assert "stages.3.attns.1.conv_offset.0.weight" in state
    assert ("stages.3.attns.1.ref_point14.weight" in state) == ("stages" not in options)
    other = nano(**options)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert not load_weights(other, state).missing
    for name, value in model.named_parameters():
        assert torch.equal(other.get_parameter(name), value), name


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("stages", ["GGSS", "SSSS"])
def test_weights_of_other_stages_fill_what_they_can(stages: str, released: bool) -> None:
    source, model = nano(), nano(stages=stages)
    state = to_released_state_dict(source) if released else source.state_dict()
    with pytest.raises(UserError, match=r"lacks \d+ tensors .* Allow a partial load"):
        load_weights(model, state)
    report = load_weights(model, state, allow_partial=True)
    assert not report.resized
    changed = "stages.0" if stages == "GGSS" else "stages.2"
    assert f"{changed}.blocks.1.attention.position_bias_table" in report.missing
    output = f"{changed}.blocks.1.attention.output.weight"
    assert torch.equal(model.state_dict()[output], source.state_dict()[output])
    assert f"{changed}.blocks.1.mlp.expand.weight" in report.loaded
