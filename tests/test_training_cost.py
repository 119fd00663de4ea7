"""What a training step leaves out changes neither its result nor its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models import build_model
from models import delegate_attention as delegate_module
from models import layers as layers_module
from models import linear as linear_module
from models.training_cost import add_branch, recomputed


def branch_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))


@pytest.mark.parametrize("drop_rate", [0.0, 0.3, 0.9])
def test_branch_of_the_kept_images_is_stochastic_depth(drop_rate: float) -> None:
    net = branch_net()
    x = torch.randn(7, 2, 2, 6, generator=torch.Generator().manual_seed(1))
    results = []
    for add in (
        lambda x: add_branch(x, net, drop_rate),
        lambda x: x + StochasticDepth(drop_rate, "row")(net(x)),
    ):
        for seed in range(4):
            net.zero_grad()
            given = x.clone().requires_grad_()
            torch.manual_seed(seed)
            out = add(given)
            out.square().sum().backward()
            results.append([out.detach(), given.grad, *(p.grad.clone() for p in net.parameters())])
    for ours, theirs in zip(results[:4], results[4:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_branch_sees_only_the_kept_images() -> None:
    seen = []

    def branch(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    torch.manual_seed(0)
    kept = int(torch.empty(64).bernoulli_(0.5).sum())
    torch.manual_seed(0)
    add_branch(torch.ones(64, 3), branch, 0.5)
    assert seen == [kept]
    assert 0 < kept < 64


def test_nobody_kept_leaves_x_and_gives_zero_gradients() -> None:
    net, x = branch_net(), torch.randn(2, 6)
    torch.manual_seed(0)
    out = add_branch(x, net, 1 - 1e-9)
    out.sum().backward()
    assert torch.equal(out, x)
    assert all((p.grad == 0).all() for p in net.parameters())


def test_recomputed_keeps_only_its_input() -> None:
    net = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6))
    x = torch.randn(5, 6, requires_grad=True)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = recomputed(net, x)
    assert kept == [(5, 6)]
    out.sum().backward()
    expected = torch.autograd.grad(net(x).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("pooling", ["batch", "image"])
def test_training_step_equals_the_plain_one(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and every gradient, against full branches and everything kept."""
    images = torch.randn(6, 3, 128, 128, generator=torch.Generator().manual_seed(2))

    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = build_model(
            "delegate_nano", drop_path=0.6, recipe="ours", point_pooling=pooling
        ).train()
        torch.manual_seed(3)
        model(images).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    ours = gradients()
    monkeypatch.setattr(
        layers_module,
        "add_branch",
        lambda x, branch, rate, **_: x + StochasticDepth(rate, "row")(branch(x)),
    )
    monkeypatch.setattr(linear_module, "runs_native", lambda *tensors: False)
    for module in (delegate_module, linear_module):
        monkeypatch.setattr(module, "recomputed", lambda function, *inputs: function(*inputs))
    plain = gradients()
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=2e-3, atol=1e-5, msg=name)


def test_kept_bias_follows_the_weights() -> None:
    """The window attention's bias is worked out once for each state of its table."""
    model = build_model("delegate_nano").eval()
    attention = model.stages[0].blocks[1].attention
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        first = model(images)
        kept = attention.kept_bias._made
        assert torch.equal(model(images), first)
        assert attention.kept_bias._made is kept
    with torch.no_grad():
        attention.position_bias_table.add_(torch.randn_like(attention.position_bias_table))
    with torch.inference_mode():
        second = model(images)
        assert attention.kept_bias._made is not kept
    assert not torch.equal(first, second)
    with torch.enable_grad():
        torch.testing.assert_close(model(images), second)


def test_kept_bias_follows_a_fused_optimizer() -> None:
    """Its steps change weights without counting a version."""
    model = build_model("delegate_nano").eval()
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    with torch.inference_mode():
        model(images)
    model.train()
    model(images).sum().backward()
    optimizer.step()
    model.eval()
    with torch.inference_mode():
        kept = model(images)
    with torch.enable_grad():  # where nothing is kept
        torch.testing.assert_close(kept, model(images).detach())
