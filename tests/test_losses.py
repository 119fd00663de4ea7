"""Losses against SciPy, NumPy, plain loops and cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from losses import Objective, emd_loss, mse_loss, plcc_loss, rank_loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Predictions and labels 12 x 2 with ties, and weights."""
    rng = np.random.default_rng(2)
    label = rng.uniform(0.2, 0.9, (12, 2)).round(1)
    prediction = 0.4 * label + rng.normal(0.3, 0.05, (12, 2))
    arrays = (prediction, label, rng.uniform(0.5, 2, 12))
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)


def test_losses_of_images_by_hand() -> None:
    prediction = torch.tensor([[0.5, 0.1], [0.2, 0.2]])
    target = torch.tensor([[0.4, 0.3], [0.2, 0.0]])
    assert mse_loss(prediction, target).tolist() == pytest.approx([0.025, 0.02])
    # All mass one bin apart in two images of three: CDFs differ by 1 in one bin of four.
    shares = torch.eye(4)[[0, 1, 2]].requires_grad_()
    losses = emd_loss(shares, torch.eye(4)[[1, 2, 2]])
    assert losses.tolist() == pytest.approx([0.5, 0.5, 0.0])
    losses.sum().backward()
    assert shares.grad.isfinite().all()  # also at the third image, whose distance is 0


def test_plcc_equals_scipy(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, weight = batch
    expected = [
        1 - stats.pearsonr(prediction[:, t].numpy(), target[:, t].numpy()).statistic for t in (0, 1)
    ]
    assert plcc_loss(prediction, target).item() == pytest.approx(np.mean(expected), abs=1e-5)
    weighted = []
    for t in (0, 1):
        both = np.stack([prediction[:, t], target[:, t]])
        covariance = np.cov(both, aweights=weight.numpy())
        weighted.append(1 - covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))
    assert plcc_loss(prediction, target, weight).item() == pytest.approx(
        np.mean(weighted), abs=1e-5
    )
    assert abs(np.mean(weighted) - np.mean(expected)) > 1e-3


def test_rank_loss_equals_a_plain_loop(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, weight = batch
    for weights in (None, weight):
        means = []
        for t in (0, 1):
            losses, shares = [], []
            for i, j in itertools.permutations(range(12), 2):
                if target[i, t] > target[j, t]:
                    difference = 10 * float(prediction[i, t] - prediction[j, t])
                    losses.append(math.log1p(math.exp(-difference)))
                    shares.append(1.0 if weights is None else float(weights[i] * weights[j]))
            means.append(np.average(losses, weights=shares))
        assert len(losses) < 66  # there are ties
        computed = rank_loss(prediction, target, weights).item()
        assert computed == pytest.approx(np.mean(means), rel=1e-5)


def test_rank_loss_by_hand() -> None:
    target = torch.tensor([[0.3], [0.3], [0.8]])
    level = torch.full((3, 1), 0.5)
    assert rank_loss(level, target).item() == pytest.approx(math.log(2))
    right, wrong = target, 1 - target  # two pairs, five points of rating apart
    assert rank_loss(right, target).item() == pytest.approx(math.log1p(math.exp(-5)))
    assert rank_loss(wrong, target).item() == pytest.approx(math.log1p(math.exp(5)))


@pytest.mark.parametrize("loss", [plcc_loss, rank_loss])
def test_gradients_equal_finite_differences(loss, batch) -> None:  # noqa: ANN001
    prediction, target, weight = (part.double() for part in batch)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, target, weight), [prediction])


@pytest.mark.parametrize("loss", [plcc_loss, rank_loss])
@pytest.mark.parametrize(
    ("count", "labels", "predictions"),
    [
        (1, "any", "any"),  # a batch of one
        (5, "constant", "any"),
        (5, "constant", "constant"),
    ],
)
def test_nothing_to_rank_is_zero(loss, count: int, labels: str, predictions: str) -> None:  # noqa: ANN001
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(count, 2, generator=generator)
    target = torch.rand(count, 2, generator=generator)
    if labels == "constant":
        target = target[:1].expand(count, 2)
    if predictions == "constant":
        prediction = torch.full((count, 2), 0.3)
    prediction.requires_grad_()
    value = loss(prediction, target)
    value.backward()
    assert value.item() == 0
    assert prediction.grad.eq(0).all()


@pytest.mark.parametrize("loss", [plcc_loss, rank_loss])
def test_constant_predictions_have_a_finite_gradient(loss) -> None:  # noqa: ANN001
    target = torch.linspace(0.1, 0.9, 6)[:, None]
    for spread in (0.0, 1e-7):
        prediction = (0.3 + spread * torch.tensor([1.0, -1, 1, -1, 1, -1]))[:, None]
        prediction.requires_grad_()
        value = loss(prediction, target)
        value.backward()
        assert value.isfinite()
        assert prediction.grad.isfinite().all()
        assert prediction.grad[0] > 0 > prediction.grad[-1]  # the order of the labels is learnt


def test_objective_adds_up(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, weight = batch
    squares = (prediction - target).square()
    assert Objective("mse")(prediction, target).item() == pytest.approx(squares.mean().item())
    total = Objective("mse", plcc_weight=0.5, rank_weight=2.0)(prediction, target, weight)
    expected = (
        (squares * weight[:, None]).mean()
        + 0.5 * plcc_loss(prediction, target, weight)
        + 2 * rank_loss(prediction, target, weight)
    )
    assert total.item() == pytest.approx(expected.item())


def test_objective_of_half_precision_is_that_of_single(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    prediction, target, _ = batch
    objective = Objective("mse", 1.0, 1.0)
    half = prediction.bfloat16()
    assert objective(half, target) == objective(half.float(), target)
