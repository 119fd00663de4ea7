"""Names, options and shapes of the networks, and what the recipes promise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from errors import UserError
from models import (
    OPTIONS,
    Explanation,
    ModelConfig,
    build_model,
    dead_color_points,
    list_models,
    parameter_groups,
)
from models.color_spaces import ColorSpaces
from models.delegate_attention import damp_offsets, regular_grid
from models.layers import drop_path_rates
from models.options import ARCHITECTURES, resolve
from models.sampling import sample_bilinear
from models.window_attention import partition, relative_position_index, shift_mask, unpartition


def nano(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("delegate_nano", **options).eval()


def photographs(batch: int, size: int = 128) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_list_models() -> None:
    assert list_models() == [
        "delegate_nano",
        "delegate_tiny",
        "delegate_small",
        "delegate_base",
        "delegate_base_384",
        "delegate_cnn",
    ]


def test_nano_is_small() -> None:
    assert sum(p.numel() for p in nano().parameters()) <= 2_000_000


@pytest.mark.parametrize(
    ("variant", "targets", "gate"),
    [
        ("icaa17k", ("MOS", "color"), True),
        ("spaq", ("Colorfulness",), False),
        ("ava", tuple(str(i) for i in range(1, 11)), True),
    ],
)
def test_variants(variant: str, targets: tuple[str, ...], gate: bool) -> None:
    model = nano(variant=variant)
    scores = model(photographs(2))
    assert model.config.targets == targets
    assert scores.shape == (2, len(targets))
    assert ((scores > 0) & (scores < 1)).all()
    assert all((layer.gate is not None) == gate for layer in model.explain(photographs(1)).layers)
    if variant == "ava":
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))


def test_ours_1_has_one_head() -> None:
    model = nano(targets=("color",))
    assert model(photographs(3)).shape == (3, 1)


@pytest.mark.parametrize("pooling", ["batch", "image"])
def test_explanation_shapes(pooling: str) -> None:
    model = nano(point_pooling=pooling)
    images = photographs(2)
    explanation = model.explain(images)
    assert isinstance(explanation, Explanation)
    torch.testing.assert_close(explanation.scores, model(images))
    torch.testing.assert_close(explanation.pooled, model.forward_features(images))
    assert explanation.color_points.shape == (2, 36)
    assert explanation.color_space_weights.shape == (2, 36 * 6)
    assert [(layer.stage, layer.block) for layer in explanation.layers] == [(3, 1), (4, 1)]
    for layer, side, groups, heads in zip(explanation.layers, (8, 4), (2, 4), (4, 8), strict=True):
        lead = () if pooling == "batch" else (2,)
        assert layer.interest_points.shape == (*lead, side, side, 2)
        assert layer.gate.shape == (*lead, side, side)
        assert layer.offsets.shape == layer.points.shape == (2, groups, side, side, 2)
        assert layer.attention.shape == (2, heads, side**2, side**2)
        torch.testing.assert_close(layer.attention.sum(-1), torch.ones(2, heads, side**2))
        interest = layer.interest_points.reshape(-1, 1, side, side, 2)
        gate = layer.gate.reshape(-1, 1, side, side, 1)
        torch.testing.assert_close(layer.points, (layer.offsets + interest) * gate)


def test_score_alone_and_in_company_agree_with_image_pooling() -> None:
    model = nano(recipe="ours")
    images = photographs(6)
    together = model(images)
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    alone = torch.cat([model(image[None]) for image in images])
    assert (alone - together).abs().max() <= 1e-5
    assert (model(images[order]) - together[order]).abs().max() <= 1e-5
    assert (model(images[:3]) - together[:3]).abs().max() <= 1e-5


def test_score_depends_on_company_with_batch_pooling() -> None:
    model = nano(point_pooling="batch")
    images = photographs(2)
    # Net_i's starting weights are small: a larger one makes the points differ visibly.
    for stage in model.stages[2:]:
        stage.blocks[1].attention.interest_net.weight.data.mul_(20)
        stage.blocks[1].attention.position_bias_table.data.mul_(100)
    alone = torch.cat([model(image[None]) for image in images])
    assert (alone - model(images)).abs().max() > 1e-5


def test_unit_color_points_are_never_outside() -> None:
    model = nano(recipe="ours")
    model.head.color_points.weight.data.mul_(50)
    explanation = model.explain(photographs(4))
    assert explanation.color_points.min() >= 0
    assert explanation.color_points.max() <= 1
    assert dead_color_points(explanation.color_space_weights, 36) == 0


def test_free_color_points_die_outside_the_comb() -> None:
    model = nano(recipe="released")
    model.head.color_points.bias.data.fill_(2.0)
    explanation = model.explain(photographs(2))
    assert dead_color_points(explanation.color_space_weights, 36) == 1


def test_dead_share_by_hand() -> None:
    weights = torch.tensor([[0.0, 0, 0.5, 0, 0, 0], [0.1, 0, 0, 0, 0.2, 0]])
    assert dead_color_points(weights, 3).item() == pytest.approx(3 / 6)


def test_color_space_weights_by_hand() -> None:
    spaces = ColorSpaces(num_color_points=2, color_spaces=2, slope=2.0)  # centres .25, .75; w = 4
    weights = spaces(torch.tensor([[0.25, 0.6]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, 0.0, 0.4]]))


def test_overlapping_color_spaces_share_out_one() -> None:
    spaces = ColorSpaces(num_color_points=1, color_spaces=6, slope=1.0)
    points = torch.linspace(1 / 12, 11 / 12, 50)[:, None]
    torch.testing.assert_close(spaces(points).sum(dim=1), torch.ones(50))


def test_offset_damping_by_hand() -> None:
    interest = torch.tensor([0.5, -0.5])
    offsets = torch.tensor([[0.1, -0.1], [0.1, 0.1], [-0.1, -0.1], [0.1, 0.0]])
    expected = torch.tensor([[0.1, -0.1], [0.025, 0.025], [-0.025, -0.025], [0.025, 0.0]])
    torch.testing.assert_close(damp_offsets(offsets, interest, 0.25), expected)


def test_sampling_takes_y_then_x() -> None:
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = torch.tensor([[[[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [3.0, 0.0]]]])
    expected = torch.tensor([[[[3.0, 8.0, 5.5, 0.0]]]])  # corners, centre, outside
    torch.testing.assert_close(sample_bilinear(maps, points), expected)


def test_regular_grid_by_hand() -> None:
    grid = regular_grid(2, 4, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(grid[1, 0], torch.tensor([0.5, -0.75]))


def test_window_partition_round_trip() -> None:
    x = torch.randn(2, 8, 12, 3)
    windows = partition(x, 4)
    torch.testing.assert_close(windows[1].view(4, 4, 3), x[0, :4, 4:8])
    torch.testing.assert_close(unpartition(windows, 4, 8, 12), x)


def test_relative_position_index_by_hand() -> None:
    expected = torch.tensor([[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]])
    assert torch.equal(relative_position_index(2), expected)


def test_shift_mask_separates_wrapped_tokens() -> None:
    mask = shift_mask(size=4, window=2, shift=1)
    assert torch.equal(mask[0], torch.zeros(4, 4))
    # The last window holds tokens of four corners of the image: none sees another.
    assert torch.equal(mask[3], -100 * (1 - torch.eye(4)))


def test_window_shift_option() -> None:
    shifts = {
        option: build_model("delegate_nano", window_shift=option).stages[0].blocks[1]
        for option in ("ceil", "floor")
    }
    assert {k: block.attention.shift for k, block in shifts.items()} == {"ceil": 2, "floor": 2}
    tiny = {
        option: build_model("delegate_tiny", window_shift=option).stages[0].blocks[1]
        for option in ("ceil", "floor")
    }
    assert {k: block.attention.shift for k, block in tiny.items()} == {"ceil": 4, "floor": 3}


def test_drop_path_rises_linearly() -> None:
    config = build_model("delegate_nano", drop_path=0.7).config
    rates = [rate for stage in drop_path_rates(config) for rate in stage]
    assert rates == pytest.approx([i / 10 for i in range(8)])


@pytest.mark.parametrize("options", [{"offsets": False}, {"gate": False}, {"color_spaces": 0}])
def test_ablations_build_and_learn(options: dict[str, object]) -> None:
    model = nano(**options).train()
    model(photographs(2)).sum().backward()
    without_gradient = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert without_gradient == []


def test_recipes_set_every_difference() -> None:
    released, ours = nano(recipe="released").config, nano(recipe="ours").config
    for name, option in OPTIONS.items():
        if option.released != option.ours:
            assert getattr(released, name) == option.released
            assert getattr(ours, name) == option.ours
    assert released.point_pooling == "batch"
    assert ours.point_pooling == "image"
    assert build_model("delegate_nano").config.recipe == "released"


def test_option_overrides_recipe() -> None:
    config = nano(recipe="ours", point_pooling="batch").config
    assert (config.point_pooling, config.color_point_range) == ("batch", "unit")


def test_config_round_trip() -> None:
    config = nano(recipe="ours", targets=("beauty",), drop_path=0.3).config
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert set(config.to_dict()) == {field.name for field in dataclasses.fields(ModelConfig)}


def test_every_architecture_fits_its_windows() -> None:
    for name, net in ARCHITECTURES.items():
        config = resolve(name, "icaa17k", "released", None, {})
        assert all(size % net.window == 0 for size in net.map_sizes(config.image_size)), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "delegate_bse"}, "did you mean 'delegate_base'"),
        ({"variant": "icaa"}, "unknown variant 'icaa'"),
        ({"recipe": "best"}, "known are released, ours"),
        ({"point_poling": "image"}, "did you mean 'point_pooling'"),
        ({"point_pooling": "all"}, "must be one of"),
        ({"gate": "yes"}, "must be of type bool"),
        ({"color_spaces": True}, "must be of type int"),
        ({"color_spaces": -1}, "0 or more"),
        ({"drop_path": 1.0}, r"\[0, 1\)"),
        ({"image_size": 130}, "multiple of 128"),
        ({"backbone": "resnet50"}, "belongs to delegate_cnn"),
        ({"targets": ()}, "at least one"),
        ({"targets": "color"}, "list of names"),
        ({"variant": "ava", "targets": ("a",)}, "leave targets out"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(**{"name": "delegate_nano", **arguments})


def test_wrong_image_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"B×3×128×128, not \(1, 3, 64, 64\)"):
        nano()(photographs(1, 64))


def test_another_image_size() -> None:
    assert nano(image_size=256)(photographs(1, 256)).shape == (1, 2)


def test_parameter_groups_cover_everything_once() -> None:
    model = nano()
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.1, new_layer_lr_factor=10)
    grouped = [parameter for group in groups for parameter in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in grouped} == {id(p) for p in trainable}
    assert len(grouped) == len(trainable)
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {
        (1e-3, 0.1),
        (1e-3, 0.0),
        (1e-2, 0.1),
        (1e-2, 0.0),
    }
