"""The package's own C++ against torch's operators in float64, and where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import nano, photographs, point_layer
from torch import Tensor, nn

from models import native_code
from models.delegate_attention import DelegateAttention, regular_grid
from models.depthwise import GroupedDepthwise
from models.fused_attention import delegate_attention, window_attention
from models.gelu import gelu
from models.linear import (
    Linear,
    native_input_gradient,
    native_linear,
    native_weight_gradients,
    ordered_weight,
)
from models.sampling import sample_bilinear, sample_groups
from models.window_attention import WindowAttention, partition, unpartition

ROOT = Path(__file__).resolve().parent.parent

needs_compiler = pytest.mark.skipif(
    native_code.library() is None, reason="no x86-64 compiler: torch's operators are used"
)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(
    ours: Callable[..., Tensor],
    torchs: Callable[..., Tensor],
    *inputs: Tensor,
    tolerance: float = 2e-6,
) -> None:
    """Value and gradients of `ours` in float32 are those of `torchs` in float64, to `tolerance`
    of the largest."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    found, expected = ours(*leaves), torchs(*exact)
    direction = random(*found.shape, seed=99)
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, leaves, direction),
        torch.autograd.grad(expected, exact, direction.double()),
        strict=True,
    )
    for a, b in pairs:
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * b.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(ours(*leaves), found, rtol=0, atol=0)


@needs_compiler
@pytest.mark.parametrize(
    ("images", "side", "window", "heads", "width", "shift"),
    [
        (2, 14, 7, 4, 32, 0),
        (2, 14, 7, 4, 32, 4),  # as in the released sizes
        (3, 8, 4, 2, 24, 2),
        (1, 10, 5, 1, 3, 0),  # nothing fills a vector
        (9, 12, 12, 2, 16, 0),  # more queries than are done at a time, many problems with one bias
    ],
)
def test_window_attention(
    images: int, side: int, window: int, heads: int, width: int, shift: int
) -> None:
    layer = WindowAttention(heads * width, heads, side, window, shift)
    slots = 1 if layer.mask is None else len(layer.mask)
    qkv = random(images, side**2, 3 * heads * width)
    bias = random(slots, heads, window**2, window**2, seed=1)

    def windows_one_by_one(qkv: Tensor, bias: Tensor) -> Tensor:
        maps = qkv.view(images, side, side, -1).roll((-shift, -shift), (1, 2))
        q, k, v = partition(maps, window).unflatten(2, (3, heads, width)).permute(2, 0, 3, 1, 4)
        mask = bias.repeat(len(q) // slots, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return unpartition(out, window, side, side).roll((shift, shift), (1, 2)).flatten(1, 2)

    assert_same(lambda *x: window_attention(*x, layer.places), windows_one_by_one, qkv, bias)


@needs_compiler
@pytest.mark.parametrize(
    ("heads", "groups", "width", "side", "points"),
    [(8, 2, 32, 14, 196), (4, 2, 24, 8, 64), (3, 3, 5, 4, 9), (6, 1, 8, 7, 4), (5, 1, 4, 3, 1)],
)
def test_delegate_attention(heads: int, groups: int, width: int, side: int, points: int) -> None:
    C, B = heads * width, 2
    q, k, v = random(B, side**2, C), random(B, points, C, seed=1), random(B, points, C, seed=2)
    table = random(heads, 2 * side - 1, 2 * side - 1, seed=3)
    places = random(B, groups, points, 2, seed=4)  # a third of them outside of the map
    grid = regular_grid(side, side, q.device, q.dtype).flatten(0, 1)

    def written_out(q: Tensor, k: Tensor, v: Tensor, table: Tensor, places: Tensor) -> Tensor:
        half = 0.5 * (grid.double()[None, None, :, None] - places[:, :, None])  # B×G×Q×N×2
        per_group = table.unflatten(0, (groups, -1)).repeat(B, 1, 1, 1)
        bias = sample_bilinear(per_group, half.flatten(0, 1)).view(B, heads, side**2, points)
        q, k, v = (t.unflatten(2, (heads, width)).transpose(1, 2) for t in (q, k, v))
        logits = q @ k.transpose(2, 3) / width**0.5 + bias
        return (logits.softmax(dim=3) @ v).transpose(1, 2).flatten(2)

    assert_same(
        lambda *x: delegate_attention(*x, grid), written_out, q, k, v, table, places, tolerance=1e-5
    )


@needs_compiler
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"),
    [
        (1, 1, 1),
        (5, 3, 7),
        (57, 32, 64),  # whole panels of columns
        (801, 50, 70),
        (1300, 64, 30),  # sums over tokens in parts
        (30, 1100, 65),  # sums over inputs in parts
        (29, 70, 1100),  # and over outputs
        (2100, 2100, 16),  # more than is packed at a time
    ],
)
def test_linear(tokens: int, inputs: int, outputs: int, gelu: bool) -> None:
    x = random(tokens, inputs)
    weight, bias = random(outputs, inputs, seed=1), random(outputs, seed=2)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer = Linear(inputs, outputs)
        if torch.is_grad_enabled():
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, gelu))
        results = [
            native_linear(x, weight, bias, gelu, ordered)
            for ordered in (None, ordered_weight(weight))
        ]
        assert torch.equal(*results)
        return results[0]

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(x) if gelu else x, weight, bias)

    assert_same(ours, torchs, x, weight, bias)


@needs_compiler
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"),
    [(0, 4, 3), (5, 3, 7), (1, 1, 1), (801, 50, 70), (1300, 64, 30)],
)
def test_gradients_of_weights(tokens: int, inputs: int, outputs: int) -> None:
    x, gradient = random(tokens, inputs), random(tokens, outputs, seed=1)
    layer = Linear(inputs, outputs)
    of_weight, of_bias = torch.autograd.grad(layer(x), [layer.weight, layer.bias], gradient)
    expected = gradient.double().t() @ x.double()
    bound = 1e-6 * expected.abs().max().item() if tokens else 0.0
    torch.testing.assert_close(of_weight.double(), expected, rtol=0, atol=bound)
    torch.testing.assert_close(of_bias.double(), gradient.double().sum(0), rtol=1e-5, atol=1e-4)


@needs_compiler
def test_a_row_is_the_same_among_others_and_by_any_number_of_threads() -> None:
    x, weight, bias = random(200, 600), random(70, 600, seed=1), random(70, seed=2)
    gradient = random(200, 70, seed=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = native_linear(x, weight, bias, gelu=True)
        of_input = native_input_gradient(gradient, weight, x)
        of_weight, of_bias = native_weight_gradients(gradient, x, weight, gelu=True)
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            for rows in (slice(0, 200), slice(3, 4), slice(100, 131)):
                assert torch.equal(native_linear(x[rows], weight, bias, gelu=True), expected[rows])
                found = native_input_gradient(gradient[rows], weight, x[rows])
                assert torch.equal(found, of_input[rows])
            found, found_bias = native_weight_gradients(gradient, x, weight, gelu=True)
            assert torch.equal(found, of_weight)
            assert torch.equal(found_bias, of_bias)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_gelu() -> None:
    x = torch.cat([torch.linspace(-12, 12, 20_011), torch.tensor([-1e30, -0.0, 0.0, 1e-30, 1e10])])
    assert_same(gelu, F.gelu, x[:20_011])
    assert gelu(x[20_011:]).tolist() == pytest.approx([0, 0, 0, 5e-31, 1e10])


@needs_compiler
def test_sampling() -> None:
    def group_by_group(maps: Tensor, points: Tensor) -> Tensor:
        parts = maps.permute(0, 3, 1, 2).chunk(points.shape[1], dim=1)
        places = points.unbind(1)
        sampled = [sample_bilinear(m, p[:, None]) for m, p in zip(parts, places, strict=True)]
        return torch.cat(sampled, dim=1).squeeze(2).transpose(1, 2)

    maps, points = random(3, 7, 9, 24), random(3, 2, 11, 2, seed=1)
    assert_same(sample_groups, group_by_group, maps, points)
    far = torch.full((3, 2, 1, 2), 1e20)
    assert sample_groups(maps, far).count_nonzero() == 0


@needs_compiler
@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 1), (9, 4), (7, 2)])
def test_depthwise(kernel: int, stride: int) -> None:
    layer = GroupedDepthwise(6, kernel, stride)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        groups = [g.permute(0, 3, 1, 2) for g in x.unbind(3)]
        maps = [F.conv2d(g, weight, bias, stride, kernel // 2, groups=6) for g in groups]
        return torch.stack([m.permute(0, 2, 3, 1) for m in maps], dim=3)

    x = random(2, 16, 16, 3, 6)
    assert_same(ours, torchs, x, layer.weight.detach(), layer.bias.detach())


def gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Scores and the gradients of all weights that have one."""
    model.zero_grad()
    scores = model(images)
    scores.square().mean().backward()
    weights = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [scores.detach(), *weights]


@needs_compiler
def test_threads_change_no_bit_of_attention() -> None:
    layer = point_layer()
    x = random(5, 8, 8, 12).requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = layer(x)
            gradients = torch.autograd.grad(out.sum(), [x, layer.position_bias_table])
            results.append((out, *gradients))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_gradient_of_a_bias_table_is_the_same_each_time() -> None:
    """torch's gradient of indexing is not, from 2**15 numbers on (49² pairs of 16 heads)."""
    layer = WindowAttention(16 * 2, 16, 7, 7)
    direction = random(1, 16, 49, 49)
    table = layer.position_bias_table
    first, *others = [torch.autograd.grad(layer._bias(), table, direction)[0] for _ in range(20)]
    assert all(torch.equal(first, other) for other in others)


@needs_compiler
def test_no_images() -> None:
    model = nano(point_pooling="image")
    for parameter in gradients(model, photographs(0))[1:]:
        assert parameter.isnan().any() or not parameter.any()  # the mean over nothing is NaN


@needs_compiler
def test_nan_comes_out_and_nothing_breaks() -> None:
    layer = point_layer()
    x = random(2, 8, 8, 12)
    x[0, 3, 3, 5] = torch.nan
    out = layer(x)
    assert out[0].isnan().any()
    out.sum().backward()


@needs_compiler
def test_networks_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano(point_pooling="image")
    ours = gradients(model, photographs())
    monkeypatch.setattr(native_code, "library", lambda: None)
    for a, b in zip(ours, gradients(model, photographs()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * max(b.abs().max().item(), 1e-4))


RUN = """
import warnings
import torch
from models import build_model, native_code
torch.manual_seed(0)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    score = build_model("delegate_nano").eval()(torch.ones(1, 3, 128, 128))
print(native_code.library() is not None, float(score.detach().flatten()[0]))
print(*(str(w.message) for w in told), sep="\\n")
"""


def start(environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, float, str]:
    """Whether the library was there, a score, and warnings."""
    out, _ = process.communicate()
    assert process.returncode == 0
    first, _, told = out.partition("\n")
    found, score = first.split()
    return found, float(score), told


@needs_compiler
def test_processes_compile_at_once_and_later_ones_do_not(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    started = [start(cache) for _ in range(2)]
    assert [finish(process)[0] for process in started] == ["True", "True"]
    (library,) = (tmp_path / "delegate_transformer").iterdir()  # and nothing half-made beside it
    made = library.stat()
    assert finish(start(cache))[0] == "True"
    assert library.stat().st_mtime_ns == made.st_mtime_ns


@needs_compiler
def test_without_a_compiler_and_with_one_that_fails(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"NATIVE_CODE": "off"}, ""),
        ({"PATH": "", "CXX": ""}, ""),
        ({"CXX": "false"}, "false failed"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "Not a directory"),
    ]
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    started = [start({**cache, **environment}) for environment, _ in cases]
    _, score, told = finish(start({}))
    assert told.strip() == ""
    for process, (_, warning) in zip(started, cases, strict=True):
        found, same, told = finish(process)
        assert found == "False"
        assert same == pytest.approx(score, abs=1e-6)
        assert (warning in told) if warning else not told.strip()


@needs_compiler
def test_layers_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above, and the golden ones, are of what networks run."""
    called: list[str] = []
    original = native_code.call
    for module in ("fused_attention", "gelu", "linear", "sampling", "depthwise"):
        monkeypatch.setattr(
            f"models.{module}.call",
            lambda function, *a: (called.append(function), original(function, *a)),
        )
    model = nano()
    model(photographs()).sum().backward()
    forward_and_backward = {"gelu", "sample", "depthwise"}
    expected = forward_and_backward | {f"{name}_gradient" for name in forward_and_backward}
    expected |= {"linear", "linear_input_gradient", "linear_weight_gradient"}
    assert set(called) == expected | {"attention"}
    delegates = sum(isinstance(m, DelegateAttention) for m in model.modules())
    assert called.count("sample") == delegates
