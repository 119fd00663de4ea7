"""Several processes, started by torchrun, against one: batches, training, evaluation, failures."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tiny import write_tiny_dataset

from config_layers import resolve_config
from dataset import ColorDataset, EpochBatches
from distributed import gathered, largest, local_device, on_main, summed
from errors import UserError
from prepared import Transform
from setting import build_splits
from train_nni import main

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = Path(sys.executable).with_name("torchrun")
DEADLINE = 120  # seconds that two processes may take on a busy machine; idle, they take 10
EPOCHS = 3
TEST_IMAGES = 9  # three batches of at most 4: one process gets two of them, the other one


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Drop path off: each process draws its own, so that nothing could be compared."""
    root = tmp_path_factory.mktemp("data")
    flags = write_tiny_dataset(root, train=19, test=TEST_IMAGES)  # train 13: 4 + 4 + 4 + 1
    # With an average, which depends on the weights of every step. A small learning rate: a weight
    # without any gradient but rounding (a bias of the keys, say) is moved by Adam all the same, by
    # up to lr, and another order of summation moves it elsewhere. At 1e-3 the metrics of four seeds
    # were 1e-6 to 6e-6 apart, at 2e-5 those of three 1e-7 to 2e-7 (a fourth met a gate: 4e-5).
    flags += ["--epochs", str(EPOCHS), "--drop-path", "0", "--ema-decay", "0.8", "--lr", "2e-5"]
    return flags


@pytest.fixture(scope="module")
def alone(flags: list[str], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The run folder of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert main([*flags, "--output", str(output)]) == 0
    return output


def command(*flags: str, options: tuple[str, ...] = ("--standalone", "--nproc_per_node=2")) -> list:
    return [TORCHRUN, *options, str(ROOT / "train_nni.py"), *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(ours: Path, other: Path, tolerance: float = 1e-6) -> None:
    """Every epoch's and every split's metrics, and every prediction, but for rounding."""
    for one, two in zip(read_csv(ours / "epochs.csv"), read_csv(other / "epochs.csv"), strict=True):
        for name in one.keys() - {"seconds"}:
            assert float(one[name]) == pytest.approx(float(two[name]), abs=tolerance), name
    assert_same_scores(ours, other, tolerance)


def assert_same_scores(ours: Path, other: Path, tolerance: float) -> None:
    metrics = [json.loads((run / "metrics.json").read_text())["test"] for run in (ours, other)]
    assert metrics[0]["images"] == metrics[1]["images"] == TEST_IMAGES
    for name, values in metrics[0]["targets"]["beauty"].items():
        other_value = metrics[1]["targets"]["beauty"][name]["value"]
        assert values["value"] == pytest.approx(other_value, abs=tolerance), name
    rows, other_rows = (read_csv(run / "predictions.csv") for run in (ours, other))
    assert [row["image"] for row in rows] == [f"test {i}.png" for i in range(TEST_IMAGES)]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert float(row["prediction"]) == pytest.approx(float(other_row["prediction"]), abs=1e-5)


# ----------------------------------------------------------------------------- batches


@pytest.mark.parametrize("count", [12, 13, 14, 19])
@pytest.mark.parametrize("world", [2, 4])
def test_parts_of_batches_make_up_those_of_one_process(
    count: int, world: int, flags: list[str]
) -> None:
    labels = build_splits(resolve_config(flags, {}))["train"]
    chosen = labels.subset(np.arange(count) % len(labels))
    dataset = ColorDataset(chosen, image_size=128, transform=Transform(128), train=True)
    dataset.set_epoch(3)
    for shuffle in (True, False):
        whole, *parts = (
            EpochBatches(dataset, 4, shuffle=shuffle, seed=5, rank=rank, world=size)
            for rank, size in [(0, 1), *((rank, world) for rank in range(world))]
        )
        batches = list(whole)
        assert sorted(chain(*batches)) == list(range(count))  # every image once
        assert [len(part) for part in parts] == [len(list(part)) for part in parts]
        if not shuffle:  # whole batches in turn, those of one process
            assert sorted(chain(*parts)) == batches
            continue
        loss = np.random.default_rng(0).random(count)  # of each image
        for step, (batch, *own) in enumerate(zip(batches, *parts, strict=True)):
            kept = [o for o, part in zip(own, parts, strict=True) if part.weight(step) > 0]
            assert sorted(chain(*kept)) == sorted(batch)
            means = [loss[o].mean() * p.weight(step) for o, p in zip(own, parts, strict=True)]
            assert np.mean(means) == pytest.approx(loss[batch].mean())
        whole.first = 2
        assert list(whole) == batches[2:]


def test_one_process_needs_no_group() -> None:
    values, indices = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([0, 2, 1])
    assert gathered(values, indices, 3).tolist() == [[1.0], [2.0], [3.0]]
    with pytest.raises(RuntimeError, match="overlap or leave images out"):
        gathered(values, torch.tensor([0, 2, 2]), 3)
    assert (largest(3), on_main(lambda: "x"), summed(values) is values) == (3, "x", True)


def test_devices_must_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(UserError, match="started 99 processes on a machine with"):
        local_device(torch.device("cuda"))
    with pytest.raises(UserError, match="names one GPU for 99 processes"):
        local_device(torch.device("cuda:0"))


# ----------------------------------------------------------------------------- real processes


def test_two_processes_equal_one(alone: Path, flags: list[str], tmp_path: Path) -> None:
    output = tmp_path / "two"
    done = subprocess.run(
        command(*flags, "--output", str(output)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/3") == 1  # only rank 0 prints
    assert "2 processes" in done.stdout
    assert_same_run(output, alone)
    # The same weights, scored by one process.
    scored, test_csv = tmp_path / "scored", flags[flags.index("--test-csv") + 1]
    evaluate = ["--evaluate", "--init-from", str(output / "best"), "--score-range", "1,7"]
    evaluate += ["--test-csv", test_csv, "--device", "cpu", "--batch-size", "4"]
    assert main([*evaluate, "--workers", "0", "--output", str(scored)]) == 0
    assert_same_scores(output, scored, tolerance=1e-6)


def test_stopped_then_killed_then_resumed(alone: Path, flags: list[str], tmp_path: Path) -> None:
    """SIGTERM saves a checkpoint; the death of one process ends the others; both resume."""
    output = tmp_path / "run"
    start = command(*flags, "--output", str(output), "--resume", "auto")
    with started(start) as torchrun:
        wait_for(output / "epochs.csv", torchrun)
        torchrun.send_signal(signal.SIGTERM)
        text = torchrun.communicate(timeout=DEADLINE)[0]
    assert torchrun.returncode != 0
    assert "stopped by a signal; to go on: --resume" in text
    stopped_at = (output / "last").resolve().name

    with started(start) as torchrun:
        wait_for_text(torchrun, "resuming after epoch")
        victim = psutil.Process(torchrun.pid).children()[1]
        victim.kill()
        before = time.monotonic()
        text = torchrun.communicate(timeout=DEADLINE)[0]
    assert torchrun.returncode == 1, text
    assert time.monotonic() - before < 60  # torchrun gives the others 30 s to end
    assert (output / "last").resolve().name >= stopped_at
    assert not (output / "metrics.json").exists()

    assert main(["--resume", "--output", str(output)]) == 0  # with one process, even
    assert_same_run(output, alone)


def started(start: list) -> subprocess.Popen:
    return subprocess.Popen(
        start, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    give_up = time.monotonic() + DEADLINE
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < give_up, f"{path} does not come"
        time.sleep(0.01)


def wait_for_text(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} was not printed")


# ----------------------------------------------------------------------------- two machines


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable: 10.77.0.1 and 10.77.0.2."""
    names = [f"colors-{os.getpid()}-{number}" for number in (1, 2)]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces are not to be had here: {error}")
        ends = ["type", "veth", "peer", "name", "cable", "netns", names[1]]
        ip("link", "add", "cable", "netns", names[0], *ends)
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


def test_two_machines_equal_one(
    machines: list[str], alone: Path, flags: list[str], tmp_path: Path
) -> None:
    """Each machine has a disk of its own: only the first gets the run folder."""
    processes = []
    try:
        for rank, machine in enumerate(machines):
            options = ("--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1")
            options += ("--master_addr=10.77.0.1", "--master_port=29511")
            output = str(tmp_path / f"machine-{rank}")
            train = command(*flags, "--output", output, options=options)
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", machine, *train],
                    env=environment() | {"GLOO_SOCKET_IFNAME": "cable"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        texts = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], texts
    assert_same_run(tmp_path / "machine-0", alone)
    assert not (tmp_path / "machine-1").exists()
