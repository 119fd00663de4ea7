"""A real NNI experiment: two trials through nnictl, watched and checked through its REST API."""

from __future__ import annotations

import csv
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from tiny import write_tiny_dataset

ROOT = Path(__file__).resolve().parent.parent
NNICTL = Path(sys.executable).with_name("nnictl")
DEADLINE = 120  # seconds for two trials of one epoch on a busy machine; idle, they take 20
TRIALS = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Start the experiment; gives its REST address and the folder it runs in; ends it again."""
    if not NNICTL.is_file():
        pytest.skip("nnictl is not installed beside this Python")
    folder = tmp_path_factory.mktemp("nni")
    flags = write_tiny_dataset(folder / "data")
    command = [sys.executable, str(ROOT / "train_nni.py"), *flags, "--epochs", "1"]
    config = yaml.safe_load((ROOT / "config.yml").read_text(encoding="utf-8"))
    del config["searchSpaceFile"]
    config |= {
        "searchSpace": {
            "lr": {"_type": "loguniform", "_value": [0.0005, 0.002]},
            "batch_size": {"_type": "quniform", "_value": [4, 8, 4]},
        },
        "trialCommand": shlex.join(command),
        "trialCodeDirectory": str(folder),
        "experimentWorkingDirectory": str(folder / "experiments"),
        "maxTrialNumber": TRIALS,
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    environment = {**os.environ, "HOME": str(folder)}  # nnictl's own records go there
    start = [NNICTL, "create", "--config", folder / "config.yml", "--port", str(port)]
    try:
        subprocess.run(start, env=environment, check=True, timeout=60)
        yield f"http://127.0.0.1:{port}/api/v1/nni", folder
    finally:
        subprocess.run([NNICTL, "stop", "--port", str(port)], env=environment, check=True)


def wait_until_done(api: str) -> None:
    give_up = time.monotonic() + DEADLINE
    while (status := requests.get(f"{api}/check-status", timeout=10).json())["status"] != "DONE":
        assert status["status"] != "ERROR", status
        assert time.monotonic() < give_up, f"not done after {DEADLINE} s: {status}"
        time.sleep(0.5)


def test_nni_gets_what_the_run_folders_hold(experiment: tuple[str, Path]) -> None:
    api, folder = experiment
    wait_until_done(api)
    trials = requests.get(f"{api}/trial-jobs", timeout=10).json()
    reported = requests.get(f"{api}/metric-data", timeout=10).json()
    identity = requests.get(f"{api}/experiment", timeout=10).json()["id"]
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * TRIALS
    for trial in trials:
        run = folder / "runs" / "nni" / identity / trial["trialJobId"]
        chosen = json.loads(trial["hyperParameters"][0])["parameters"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert {key: config[key] for key in chosen} == chosen
        with (run / "epochs.csv").open(newline="") as file:
            epochs = list(csv.DictReader(file))
        expected = [
            {
                "default": float(row["srcc"]),  # on the validation split
                "plcc": float(row["plcc"]),
                "accuracy": float(row["accuracy"]),
            }
            for row in epochs
        ]
        numbers = {"PERIODICAL": [], "FINAL": []}
        for metric in reported:
            if metric["trialJobId"] == trial["trialJobId"]:
                numbers[metric["type"]].append(json.loads(json.loads(metric["data"])))
        assert numbers == {"PERIODICAL": expected, "FINAL": expected[-1:]}
        metrics = json.loads((run / "metrics.json").read_text())
        validation = metrics["val"]["targets"]["beauty"]
        assert validation["srcc"]["value"] == pytest.approx(expected[-1]["default"])


def test_config_yml_and_search_space_are_accepted() -> None:
    """NNI's own reader takes the files, and every key of the space is one of train_nni.py's."""
    from nni.experiment.config import ExperimentConfig

    from config_layers import resolve_config

    config = ExperimentConfig.load(ROOT / "config.yml")
    assert (config.tuner.name, config.tuner.class_args["optimize_mode"]) == ("TPE", "maximize")
    space = json.loads((ROOT / "search_space.json").read_text())
    argv = shlex.split(config.trial_command)[2:]
    for ends in (0, -1):
        resolve_config(argv, {key: spec["_value"][ends] for key, spec in space.items()})
