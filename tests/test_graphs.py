"""The network as torch sees it: operations, compiled and exported graphs, mixed precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from networks import nano, photographs, point_layer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from losses import Objective
from models import build_model, count_flops, dead_color_points


def test_flops() -> None:
    with torch.device("meta"):
        base = build_model("delegate_base")
    assert count_flops(base) == pytest.approx(31.45e9, rel=2e-4)
    model = nano().train()
    expected, per_stage = 0, zip((24, 48, 96, 192), (32, 16, 8, 4), (9, 7, 5, 3), strict=True)
    for dim, side, kernel in per_stage:
        tokens = side**2
        window = 2 * (4 * dim**2 + 2 * 4**2 * dim)  # q, k, v, output; a window of 16 tokens
        points = 2 * (4 * dim**2 + 2 * tokens * dim)  # … and all points
        points += 2 * (2 * dim + dim + kernel**2 * dim + 2 * dim)  # Net_i, Net_g, Net_o
        expected += tokens * (2 * 16 * dim**2 + window + (points if dim > 48 else window))
        taps = 4 * dim // 2 if dim > 24 else 16 * 3  # downsampling, patch embedding
        expected += 2 * tokens * taps * dim
    expected += 2 * (192 * 36 + 36 * 6 * 2)
    assert count_flops(model) == expected
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


def every_option() -> nn.Module:
    return nano(
        stages="DGGG",
        interest_kernel=2,
        gate_gradient="straight_through",
        point_pooling="running",
        recipe="ours",
    )


def test_no_graph_breaks() -> None:
    model = every_option().train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = photographs()
    torch.testing.assert_close(compiled(images), model(images))


def test_exported_graph_gives_the_same_scores() -> None:
    model = every_option().eval()
    batch = {"images": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (photographs(2),), dynamic_shapes=batch)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(photographs(3)), model(photographs(3)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_points_are_float32_under_autocast(kernel: int) -> None:
    layer = point_layer(interest_kernel=kernel, damping=1.0)  # damping is not continuous
    x = torch.randn(2, 8, 8, 12, generator=torch.Generator().manual_seed(4))
    traces: list = []
    with torch.inference_mode():
        layer(x, traces)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x, traces).dtype == torch.bfloat16
    full, half = traces
    assert torch.equal(half.interest_points, full.interest_points)
    assert torch.equal(half.gate, full.gate)
    assert half.points.dtype == torch.float32
    torch.testing.assert_close(half.points, full.points, atol=2e-2, rtol=0)


@pytest.mark.parametrize("recipe", ["released", "ours"])
def test_no_step_waits_for_the_device(recipe: str) -> None:
    """Tensors without values: whatever would be copied to the host or branched on is an error."""
    with torch.device("meta"):
        model = build_model("delegate_nano", recipe=recipe, drop_path=0.5).train()
        images, target = torch.empty(4, 3, 128, 128), torch.empty(4, 2)
    objective = Objective("mse", plcc_weight=0.1, rank_weight=0.1)
    objective(model(images), target).backward()
    assert all(p.grad is not None for p in model.stages.parameters() if p.requires_grad)
    with torch.inference_mode():
        _, _, weights = model.eval().head(model.forward_features(images))
        dead_color_points(weights, model.config.num_color_points)


@pytest.fixture
def overwritten_on_conversion() -> Iterator[None]:
    """`Module.to` makes new parameters, since those of fake tensors are of another kind."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.usefixtures("overwritten_on_conversion")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delegate_nano", {}),
        ("delegate_nano", {"point_pooling": "running", "stages": "DGGG"}),
        ("delegate_nano", {"interest_kernel": 3, "gate_gradient": "straight_through"}),
        ("delegate_cnn", {}),
    ],
)
def test_a_pass_on_a_gpu_stays_there(name: str, options: dict) -> None:
    """Tensors that say they are on a GPU, where none is needed: an operator that also got one on
    the CPU, that would wait for a value, or that is cuDNN's, is an error."""
    model = build_model(name, **options)
    side = model.config.image_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, images = model.to("cuda"), torch.empty(2, 3, side, side, device="cuda")
        assert model.train()(images).device.type == "cuda"
        with torch.inference_mode():
            explanation = model.eval().explain(images)
    assert explanation.scores.device.type == "cuda"
    assert all(layer.points.device.type == "cuda" for layer in explanation.layers)
