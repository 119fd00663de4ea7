"""softmax(q·k / √d + bias)·v on the CPU against torch's, and large maps in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import point_layer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import build_model, native_code
from models import delegate_attention as delegate_module
from models.attention import attention


def random(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


@pytest.mark.parametrize(("length", "repeats"), [(1, None), (6, None), (3, 2)])
def test_values_and_gradients(length: int, repeats: int | None) -> None:
    q, k, v = random(6, 2, 5, 8, seed=0), random(6, 2, 7, 8, seed=1), random(6, 2, 7, 8, seed=2)
    bias, direction = random(length, 2, 5, 7, seed=3), random(6, 2, 5, 8, seed=4)
    mask = bias if repeats is None else bias.repeat(repeats, 1, 1, 1)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    found = attention(q, k, v, bias, repeats)
    torch.testing.assert_close(found, expected)
    leaves = (q, k, v, bias)
    torch.testing.assert_close(
        torch.autograd.grad((found * direction).sum(), leaves),
        torch.autograd.grad((expected * direction).sum(), leaves),
        rtol=1e-5,
        atol=1e-5,
    )
    with torch.no_grad():
        torch.testing.assert_close(attention(q, k, v, bias, repeats), expected)


class LargestSample(TorchDispatchMode):
    """Numbers in the largest result of bilinear sampling."""

    size = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket is torch.ops.aten.grid_sampler_2d:
            self.size = max(self.size, result.numel())
        return result


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    most = 4 * 64 * 7 + 5  # 4 heads, 64 points: 7 of 64 queries at a time, so 10 parts
    monkeypatch.setattr(delegate_module, "MOST_PAIRS", most)
    return most


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no compiler."""
    monkeypatch.setattr(native_code, "library", lambda: None)


def result_and_gradients(layer: nn.Module) -> tuple[Tensor, ...]:
    x = random(2, 8, 8, 12, seed=5)
    out = layer(x)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
    return out, *(g for g in gradients if g is not None)


def test_parts_give_the_whole(monkeypatch: pytest.MonkeyPatch, torch_only: None) -> None:
    layer = point_layer()
    whole = result_and_gradients(layer)
    for most in (4 * 64 * 7 + 5, 1):  # 7 queries at a time; less than a query's pairs: one
        monkeypatch.setattr(delegate_module, "MOST_PAIRS", most)
        torch.testing.assert_close(result_and_gradients(layer), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_gradients", [True, False])
def test_no_part_holds_more_than_its_share(
    with_gradients: bool, small_parts: int, torch_only: None
) -> None:
    layer, batch = point_layer(), 2
    with LargestSample() as largest, torch.set_grad_enabled(with_gradients):
        out = layer(random(batch, 8, 8, 12, seed=5))
        if with_gradients:
            out.sum().backward()
    assert 4 * 64 < largest.size <= batch * small_parts


def test_parts_compile_into_one_graph(small_parts: int) -> None:
    model = build_model("delegate_nano", drop_path=0.0)
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(6))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), model(images))
