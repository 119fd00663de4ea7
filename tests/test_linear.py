"""Linear layers by our own code: the results and gradients of F.linear, also after GELU."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import linear as linear_module
from models.linear import Linear
from models.native_code import runs_native

needs_native_code = pytest.mark.skipif(
    not runs_native(torch.ones(1)), reason="no x86-64 compiler: torch's operators are used"
)


def layer(dim_in: int = 24, dim_out: int = 40) -> Linear:
    torch.manual_seed(0)
    return Linear(dim_in, dim_out)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the native functions that ran: without any, tests would compare F.linear to
    itself."""
    names: list[str] = []
    call = linear_module.call

    def counted(function: str, *arguments: object) -> None:
        names.append(function)
        call(function, *arguments)

    monkeypatch.setattr(linear_module, "call", counted)
    yield names
    assert names or not runs_native(torch.ones(1))


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 4, 24)])
def test_scores_without_gradients(shape: tuple[int, ...], called: list[str]) -> None:
    net, x = layer(), inputs(*shape)
    with torch.inference_mode():
        for _ in range(2):  # the second time with the kept weight
            torch.testing.assert_close(net(x), F.linear(x, net.weight, net.bias))


def test_no_rows() -> None:
    net, x = layer(), inputs(0, 24)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), F.linear(x, net.weight, net.bias))


def test_maps_that_lie_in_another_order(called: list[str]) -> None:
    net, x = layer(), inputs(2, 24, 3, 5).permute(0, 2, 3, 1)
    expected = F.linear(x, net.weight, net.bias)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x, gelu=True), F.linear(F.gelu(x), net.weight, net.bias))
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("frozen", ["nothing", "input", "weight", "bias", "layer"])
def test_gradients(frozen: str, gelu: bool, called: list[str]) -> None:
    net, x = layer(), inputs(4, 7, 24).requires_grad_(frozen != "input")
    net.weight.requires_grad_(frozen not in ("weight", "layer"))
    net.bias.requires_grad_(frozen not in ("bias", "layer"))
    leaves = [leaf for leaf in (x, *net.parameters()) if leaf.requires_grad]
    expected = F.linear(F.gelu(x) if gelu else x, net.weight, net.bias)
    found = net(x, gelu)
    torch.testing.assert_close(found, expected)
    direction = inputs(4, 7, 40)
    expected_gradients = torch.autograd.grad((expected * direction).sum(), leaves)
    found_gradients = torch.autograd.grad((found * direction).sum(), leaves)
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(x, gelu), expected)


@pytest.mark.parametrize("gelu", [False, True])
def test_only_the_input_is_kept(gelu: bool) -> None:
    net, x = layer(24, 24), inputs(5, 24).requires_grad_()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x, gelu)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), net.weight.data_ptr()}


def test_weights_changed_in_between_are_an_error() -> None:
    net = layer()
    out = net(inputs(5, 24).requires_grad_())
    with torch.no_grad():
        net.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_native_code
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


@needs_native_code
def test_float32_is_ours_and_other_precisions_are_torchs(called: list[str]) -> None:
    net, x = layer(), inputs(5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
    assert copy.deepcopy(net).double()(x.double()).dtype == torch.float64
    assert net(x[:0]).shape == (0, 40)
    assert called == []
    net(x.requires_grad_()).sum().backward()
    assert called == ["linear", "linear_weight_gradient", "linear_input_gradient"]
    with torch.no_grad():
        net(x)
        net(x)
    assert called[3:] == ["linear_order", "linear", "linear"]
