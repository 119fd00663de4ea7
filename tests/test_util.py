"""Metrics against SciPy, scikit-learn and cases worked out by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics

from config import TrainConfig
from errors import UserError
from models import build_model, parameter_groups
from util import (
    METRICS,
    accuracy,
    balanced_accuracy,
    bootstrap_intervals,
    build_optimizer,
    compute_metrics,
    lr_factor,
    majority_accuracy,
    mean_rating,
    pick_device,
    plcc,
    rmse,
    srcc,
    step_seed,
)


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    """300 labels with many ties on 1..10, and predictions that follow them with noise."""
    rng = np.random.default_rng(1)
    label = np.round(rng.uniform(1, 10, 300), 1)
    return label, 0.6 * label + rng.normal(1, 1.5, 300)


def test_correlations_equal_scipy(scores: tuple[np.ndarray, np.ndarray]) -> None:
    label, prediction = scores
    assert srcc(label, prediction) == pytest.approx(stats.spearmanr(label, prediction).statistic)
    assert plcc(label, prediction) == pytest.approx(stats.pearsonr(label, prediction).statistic)


def test_classification_and_error_equal_scikit_learn(
    scores: tuple[np.ndarray, np.ndarray],
) -> None:
    label, prediction = scores
    truth, answer = label > 5, prediction > 5
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(truth, answer),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(truth, answer),
        "rmse": sklearn_metrics.root_mean_squared_error(label, prediction),
        "majority_accuracy": max(truth.mean(), 1 - truth.mean()),
    }
    computed = compute_metrics(label, prediction, 5.0)
    assert {name: computed[name] for name in expected} == pytest.approx(expected)


def test_metrics_by_hand() -> None:
    label = np.array([4.0, 5.0, 6.0, 9.0])  # 5 itself is negative
    prediction = np.array([5.5, 4.0, 7.0, 5.0])
    assert accuracy(label, prediction, 5.0) == 0.5
    assert balanced_accuracy(label, prediction, 5.0) == 0.5
    assert majority_accuracy(label, 5.0) == 0.5
    assert rmse(label, prediction) == pytest.approx(math.sqrt((2.25 + 1 + 1 + 16) / 4))
    assert srcc(label, prediction) == pytest.approx(1 - 6 * (4 + 1 + 1 + 4) / (4 * 15))


def test_last_axis_is_the_split(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = [(scores[0][i : i + 50], scores[1][i : i + 50]) for i in range(0, 300, 50)]
    label, prediction = (np.stack(part) for part in zip(*rows, strict=True))
    for name, metric in METRICS.items():
        one_by_one = [metric(*row, 5.0) for row in rows]
        assert metric(label, prediction, 5.0) == pytest.approx(one_by_one), name


def test_constant_predictions_have_no_correlation() -> None:
    label, prediction = np.array([1.0, 2.0, 3.0]), np.full(3, 0.1)
    values = compute_metrics(label, prediction, 2.5)
    assert math.isnan(values["srcc"])
    assert math.isnan(values["plcc"])
    assert values["accuracy"] == pytest.approx(2 / 3)
    intervals = bootstrap_intervals(label, prediction, 2.5, samples=20, seed=0)
    assert all(math.isnan(end) for end in intervals["srcc"])


def test_balanced_accuracy_of_one_class_is_its_recall() -> None:
    assert balanced_accuracy(np.array([7.0, 8.0]), np.array([6.0, 4.0]), 5.0) == 0.5


def test_bootstrap_equals_a_plain_loop(scores: tuple[np.ndarray, np.ndarray]) -> None:
    label, prediction = scores
    computed = bootstrap_intervals(label, prediction, 5.0, samples=200, seed=3)
    picks = np.random.default_rng(3).integers(300, size=(200, 300))
    looped = [stats.spearmanr(label[pick], prediction[pick]).statistic for pick in picks]
    assert computed["srcc"] == pytest.approx(tuple(np.percentile(looped, [2.5, 97.5])))
    assert computed["srcc"][0] < srcc(label, prediction) < computed["srcc"][1]


def test_bootstrap_covers_the_truth_and_repeats() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):  # correlation of the population: 0.6
        label = rng.normal(size=150)
        prediction = 0.6 * label + 0.8 * rng.normal(size=150)
        low, high = bootstrap_intervals(label, prediction, 0.0, samples=300, seed=seed)["plcc"]
        covered += low < 0.6 < high
    assert 88 <= covered <= 100
    again = bootstrap_intervals(label, prediction, 0.0, samples=300, seed=seed)["plcc"]
    assert again == (low, high)


def test_bootstrap_is_fast() -> None:
    rng = np.random.default_rng(0)
    label, prediction = rng.random(2000), rng.random(2000)
    bootstrap_intervals(label, prediction, 0.5, samples=10, seed=0)
    started = time.process_time()
    bootstrap_intervals(label, prediction, 0.5, samples=1000, seed=0)
    assert time.process_time() - started < 4


def test_mean_rating() -> None:
    shares = np.zeros((2, 10))
    shares[0, 0] = 1  # all votes for 1
    shares[1, [4, 9]] = 0.5  # half for 5, half for 10
    assert mean_rating(shares).tolist() == [1.0, 7.5]


@pytest.mark.parametrize(
    ("dataset", "progress", "factor"),
    [
        ("icaa17k", 0.0, 1.0),  # constant
        ("icaa17k", 39.9, 1.0),
        ("ava", 4.99, 1.0),  # a tenth every 5 epochs
        ("ava", 5.0, 0.1),
        ("ava", 19.9, 0.001),
        ("sample", 1.0, 0.5),  # two epochs of warm-up, then half a cosine to the 30th
        ("sample", 2.0, 1.0),
        ("sample", 16.0, 0.5),
        ("sample", 30.0, 0.0),
    ],
)
def test_schedules(dataset: str, progress: float, factor: float) -> None:
    keys = {"dataset": dataset}
    if dataset == "sample":
        keys |= {"epochs": 30, "warmup_epochs": 2.0}
    config = TrainConfig.from_layers(("test", keys))
    assert lr_factor(config, progress) == pytest.approx(factor)


@pytest.mark.parametrize(("dataset", "kind"), [("icaa17k", "Adam"), ("sample", "AdamW")])
def test_optimizer_equals_torchs_plain_one(dataset: str, kind: str) -> None:
    config = TrainConfig.from_layers(("test", {"dataset": dataset, "weight_decay": 0.05}))
    models = [build_model("delegate_nano") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizer = build_optimizer(config, models[0])
    assert type(optimizer).__name__ == kind
    groups = parameter_groups(
        models[1], lr=config.lr, weight_decay=0.05, new_layer_lr_factor=config.new_layer_lr_factor
    )
    plain = getattr(torch.optim, kind)(groups, foreach=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            if one.requires_grad:
                one.grad = torch.randn(one.shape, generator=generator)
                two.grad = one.grad.clone()
        optimizer.step()
        plain.step()
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_seed_of_an_epoch_depends_on_both() -> None:
    seeds = [step_seed(seed, epoch) for seed in range(5) for epoch in range(5)]
    assert len(set(seeds)) == 25
    assert step_seed(3, 4) == step_seed(3, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_named() -> None:
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"cuda:1.*sees 0 CUDA devices"):
        pick_device("cuda:1")
