"""Linear layers by oneDNN: the results and gradients of F.linear, whatever comes before."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.linear import Linear, onednn_linear, runs_on_onednn


def layer(dim_in: int = 24, dim_out: int = 40) -> Linear:
    torch.manual_seed(0)
    return Linear(dim_in, dim_out)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what oneDNN has multiplied: without it these tests would compare F.linear to
    itself."""
    shapes: list[tuple[int, ...]] = []

    def counted(x: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
        shapes.append(tuple(x.shape))
        return onednn_linear(x, weight, *args, **kwargs)

    monkeypatch.setattr("models.linear.onednn_linear", counted)
    yield shapes
    assert shapes or not runs_on_onednn(torch.ones(1), torch.ones(1))


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 4, 24), (0, 24)])
def test_scores_without_gradients(shape: tuple[int, ...], products: list) -> None:
    net, x = layer(), inputs(*shape)
    with torch.inference_mode():
        for _ in range(2):  # the second time with the kept weight
            torch.testing.assert_close(net(x), F.linear(x, net.weight, net.bias))


def test_maps_that_lie_in_another_order(products: list) -> None:
    net, x = layer(), inputs(2, 24, 3, 5).permute(0, 2, 3, 1)
    expected = F.linear(x, net.weight, net.bias)
    torch.testing.assert_close(net(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)


def test_gelu_in_the_same_pass(products: list) -> None:
    net, x = layer(), 3 * inputs(6, 24)
    expected = F.gelu(F.linear(x, net.weight, net.bias))
    with torch.no_grad():
        torch.testing.assert_close(net(x, gelu=True), expected)
    torch.testing.assert_close(net(x, gelu=True), expected)


@pytest.mark.parametrize("kind", ["nothing", "norm", "gelu", "frozen norm", "frozen layer"])
@pytest.mark.parametrize("input_gradient", [True, False])
def test_gradients(kind: str, input_gradient: bool, products: list) -> None:
    net, norm = layer(), nn.LayerNorm(24)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    norm.requires_grad_(kind != "frozen norm")
    net.requires_grad_(kind != "frozen layer")
    before = {"nothing": None, "gelu": nn.GELU()}.get(kind, norm)
    leaves = [p for p in (*net.parameters(), *norm.parameters()) if p.requires_grad]
    if before is not norm:
        leaves = list(net.parameters())
    x = inputs(4, 7, 24).requires_grad_(input_gradient)
    leaves += [x] if input_gradient else []
    direction = inputs(4, 7, 40)
    made = x if before is None else before(x)
    expected = torch.autograd.grad((F.linear(made, net.weight, net.bias) * direction).sum(), leaves)
    found = torch.autograd.grad((net(x, before) * direction).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_comes_before_is_not_kept() -> None:
    net, norm = layer(24, 24), nn.LayerNorm(24)
    x = inputs(5, 24).requires_grad_()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x, norm)
    own = [x, net.weight, *norm.parameters()]
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in own}


def test_weights_changed_in_between_are_an_error() -> None:
    net, norm = layer(), nn.LayerNorm(24)
    out = net(inputs(5, 24), norm)
    with torch.no_grad():
        norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_kept_weight_follows_the_weight_and_stays_behind() -> None:
    net, x = layer().eval(), inputs(5, 24)
    with torch.no_grad():
        net(x)
        kept = net.kept_weight._made
        net(x)
        assert net.kept_weight._made is kept
        net.weight.mul_(2)
        torch.testing.assert_close(net(x), F.linear(x, net.weight, net.bias))
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert twin.kept_weight._made is None
            torch.testing.assert_close(twin(x), net(x))
    assert list(net.state_dict()) == ["weight", "bias"]


def test_other_precisions_are_torchs(products: list) -> None:
    net, x = layer(), inputs(5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
    assert copy.deepcopy(net).double()(x.double()).dtype == torch.float64
    assert products == []
    net(x)
    assert products == [(5, 24)]
