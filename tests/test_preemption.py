"""Runs that end before their time, by request or by kill, and go on as if nothing had been."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train import assert_equal_states
from tiny import write_tiny_dataset

import loops
from errors import UserError
from models import load_model
from nni_trial import Trial
from train_nni import main

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 2
STEPS = 3  # an epoch
KILLS = 20


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    flags = write_tiny_dataset(root, train=14, test=4)  # 10 to train on
    return [*flags, "--epochs", str(EPOCHS), "--drop-path", "0.3"]


@pytest.fixture(scope="module")
def whole(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nothing stopped."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert main([*flags, "--output", str(output)]) == 0
    return output


def assert_same_run(ours: Path, other: Path) -> None:
    """Bit for bit the same weights, optimizer, history and predictions."""
    for link in ("last", "best"):
        one, two = (load_model(run / link).state_dict() for run in (ours, other))
        assert all(torch.equal(one[name], two[name]) for name in two)
    states = [
        torch.load(run / "last/training_state.pt", weights_only=True) for run in (ours, other)
    ]
    assert_equal_states(*states)
    assert (ours / "predictions.csv").read_text() == (other / "predictions.csv").read_text()
    tables = []
    for run in (ours, other):
        with (run / "epochs.csv").open(newline="") as file:
            tables.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("number", "step", "checkpoint"),
    [
        (signal.SIGTERM, 2, "0000-step-000002"),  # before the first epoch ended
        (signal.SIGINT, STEPS + 1, "0001-step-000001"),
        (signal.SIGTERM, 2 * STEPS, "0002"),  # at the end of an epoch, which is then evaluated
    ],
)
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    number: signal.Signals,
    step: int,
    checkpoint: str,
    whole: Path,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    steps = 0

    def lr_factor(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), number)
        return original(*arguments)

    original = loops.lr_factor
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(loops, "lr_factor", lr_factor)
        assert main([*flags, "--output", str(output)]) == 75
    assert signal.getsignal(number) == before
    assert steps == step  # the step was finished, none more was taken
    assert f"to go on: --resume --output {output}" in capsys.readouterr().out
    assert (output / "last").resolve().name == checkpoint
    assert not (output / "metrics.json").exists()
    assert main([*flags, "--resume", "auto", "--output", str(output)]) == 0
    assert_same_run(output, whole)


def test_resume_auto_starts_where_there_is_nothing(
    whole: Path, flags: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / ".tmp-config.yaml").write_text("cut in the")  # killed at the very start
    assert main([*flags, "--resume", "auto", "--output", str(output)]) == 0
    assert_same_run(output, whole)
    with pytest.raises(UserError, match="another configuration: lr"):
        main([*flags, "--resume", "auto", "--output", str(output), "--lr", "0.5"])
    with pytest.raises(UserError, match="holds no run"):
        main([*flags, "--resume", "--output", str(tmp_path / "nothing")])
    assert main([*flags, "--overwrite", "--epochs", "1", "--output", str(output)]) == 0
    assert (output / "last").resolve().name == "0001"


def test_a_real_process_ends_with_its_own_code(flags: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train_nni.py"), *flags, "--epochs", "1000"]
    process = subprocess.Popen(
        [*command, "--output", str(output)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        give_up = time.monotonic() + 90
        while not (output / "epochs.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 75, text
    state = torch.load(output / "last/training_state.pt", weights_only=True)
    assert state["epoch"] >= 1


def test_no_run_is_lost_to_kills(flags: list[str], tmp_path: Path) -> None:
    """kill -9 of real processes, half of them in the middle of writing a checkpoint."""
    output = tmp_path / "run"
    # A constant rate, so that the number of epochs, known only at the end, changes nothing else.
    flags = [*flags, "--schedule", "constant"]
    start = [*flags, "--epochs", "1000", "--output", str(output), "--resume", "auto"]
    kills = subprocess.run(
        [sys.executable, str(ROOT / "tests/kills.py"), str(KILLS), *start],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert kills.returncode == 0, kills.stderr
    facts = [json.loads(line) for line in kills.stdout.splitlines()]
    assert len(facts) == KILLS
    assert all(fact["after"] >= fact["before"] for fact in facts)  # nothing that was had is lost
    assert sum(bool(fact["torn"]) for fact in facts) >= 3  # kills left half-written checkpoints
    epochs = ["--epochs", str(int(facts[-1]["after"]) + 1)]
    assert main([*start, *epochs]) == 0
    assert not list(output.glob("**/.tmp-*"))
    untouched = tmp_path / "untouched"
    assert main([*flags, *epochs, "--output", str(untouched)]) == 0
    assert_same_run(output, untouched)


def test_a_stopped_trial_dies_of_a_signal() -> None:
    """NNI calls a trial failed that ends with an exit code, were it stopped by its assessor."""
    pid = os.fork()
    if pid == 0:
        Trial("experiment", "trial", {}).stopped()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGINT
