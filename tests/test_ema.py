"""The moving average of the weights: its formula, and how a run evaluates, saves and resumes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from test_train import assert_equal_states, read_csv
from tiny import write_tiny_dataset
from torch import Tensor, nn

import loops
from ema import AveragedWeights
from models import load_model
from train_nni import main

DECAY = 0.6


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three steps an epoch, two epochs."""
    root = tmp_path_factory.mktemp("data")
    return [*write_tiny_dataset(root), "--epochs", "2", "--drop-path", "0.3", "--no-baselines"]


@pytest.fixture(scope="module")
def averaged(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted training with an average."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*flags, "--ema-decay", str(DECAY), "--output", str(output)]) == 0
    return output


def test_average_by_hand() -> None:
    """After step 0 the weights themselves, then decays 2/11, 3/12, ... up to the given one."""
    model = nn.BatchNorm1d(1)
    model.register_buffer("index", torch.tensor([3, 5]))
    average = AveragedWeights(model, 0.3)
    expected = None
    for step, value in enumerate([4.0, 8.0, -2.0, 6.0, 1.0]):
        model.weight.data.fill_(value)
        model.running_mean.fill_(10 * value)
        average.update()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.network.weight.item() == pytest.approx(expected)
        assert average.network.running_mean.item() == 10 * value  # buffers are not averaged
    assert decay == 0.3  # the last step is beyond the rise
    assert average.network.index.tolist() == [3, 5]
    assert model.weight.item() == 1.0


def weights_of(run: Path, link: str = "last") -> dict[str, Tensor]:
    return load_model(run / link).state_dict()


def test_a_run_averages_what_a_run_without_learns(
    averaged: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are the same ones; the checkpoint holds their average, worked out here in NumPy."""
    seen: list[Tensor] = []
    watched = "head.color_points.weight"
    original = loops.seed_everything

    def note(seed: int) -> None:  # before every step: the weights that the step before left
        seen.append(models[-1].state_dict()[watched].clone())
        original(seed)

    models = []
    monkeypatch.setattr("train_nni.parallel", lambda model, _: models.append(model) or model)
    monkeypatch.setattr(loops, "seed_everything", note)
    assert main([*flags, "--output", str(tmp_path / "plain")]) == 0
    monkeypatch.undo()

    raw = torch.load(averaged / "last/training_state.pt", weights_only=True)["average"]["weights"]
    plain = weights_of(tmp_path / "plain")
    assert all(torch.equal(raw[name], plain[name]) for name in plain)
    steps = [*seen[1:], plain[watched]]
    expected = steps[0].double().numpy()
    for number, weights in enumerate(steps[1:], start=1):
        decay = min(DECAY, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weights.double().numpy()
    assert weights_of(averaged)[watched].numpy() == pytest.approx(expected, abs=1e-7)
    assert not torch.equal(weights_of(averaged)[watched], plain[watched])


def test_the_best_checkpoint_holds_the_weights_that_were_scored(
    averaged: Path, flags: list[str], tmp_path: Path
) -> None:
    test_csv = flags[flags.index("--test-csv") + 1]
    argv = ["--evaluate", "--init-from", str(averaged / "best"), "--score-range", "1,7"]
    argv += ["--batch-size", "4", "--device", "cpu", "--workers", "0", "--no-baselines"]
    assert main([*argv, "--test-csv", test_csv, "--output", str(tmp_path / "again")]) == 0
    ours, again = (
        (folder / "predictions.csv").read_text() for folder in (averaged, tmp_path / "again")
    )
    assert ours == again


@pytest.mark.parametrize(
    ("step", "checkpoint"), [(2, "0000-step-000002"), (3, "0001"), (4, "0001-step-000001")]
)
def test_a_stopped_run_goes_on_bit_for_bit(
    step: int,
    checkpoint: str,
    averaged: Path,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, steps, original = tmp_path / "run", [], loops.lr_factor

    def stop_at(*arguments: object) -> float:
        steps.append(None)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loops, "lr_factor", stop_at)
        assert main([*flags, "--ema-decay", str(DECAY), "--output", str(output)]) == 75
    assert (output / "last").resolve().name == checkpoint
    assert main(["--resume", "--output", str(output)]) == 0
    states = []
    for run in (output, averaged):
        states.append(torch.load(run / "last/training_state.pt", weights_only=True))
        states[-1] |= {"last": weights_of(run), "best": weights_of(run, "best")}
    assert_equal_states(*states)
    assert read_csv(output / "predictions.csv") == read_csv(averaged / "predictions.csv")
