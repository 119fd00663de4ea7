"""A real NNI experiment: three trials through nnictl, one of which fails, watched through REST."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from nni_best import show_best

ROOT = Path(__file__).resolve().parent.parent
NNICTL = Path(sys.executable).with_name("nnictl")
DEADLINE = 300  # seconds for the trials on a busy machine; idle, they take 30
IMPOSSIBLE = 1.5  # a drop path rate that the network refuses


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Experiment:
    """An experiment that has ended, NNI still answering."""

    folder: Path  # where its trials ran
    page: str  # address of the web page
    environment: dict[str, str]

    def ask(self, what: str) -> Any:
        return requests.get(f"{self.page}/api/v1/nni/{what}", timeout=10).json()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    """config.yml with a grid of three trials, two at a time; all is stopped whatever happens."""
    if not NNICTL.is_file():
        pytest.skip("nnictl is not installed beside this Python")
    folder = tmp_path_factory.mktemp("nni")
    config = yaml.safe_load((ROOT / "config.yml").read_text(encoding="utf-8"))
    del config["assessor"]
    command = shlex.split(config["trialCommand"])
    command[:2] = [sys.executable, str(ROOT / "train_nni.py")]
    command += ["--data-root", str(ROOT / "data/sample"), "--epochs", "2", "--device", "cpu"]
    command += ["--val-fraction", "0.8", "--bootstrap", "50", "--lr", "0.002"]
    config |= {
        "searchSpace": {"drop_path": {"_type": "choice", "_value": [0.0, 0.1, IMPOSSIBLE]}},
        "trialCommand": shlex.join(command),
        "trialCodeDirectory": str(folder),
        "experimentWorkingDirectory": str(folder / "experiments"),
        "maxTrialNumber": 3,
        "trialConcurrency": 2,
        "tuner": {"name": "GridSearch"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    port = str(free_port())
    # nnictl's own records go to HOME.
    environment = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    start = [NNICTL, "create", "--config", folder / "config.yml", "--port", port]
    experiment = Experiment(folder, f"http://127.0.0.1:{port}", environment)
    try:
        subprocess.run(start, env=environment, check=True, timeout=120)
        wait_until_done(experiment)
        yield experiment
    finally:
        subprocess.run([NNICTL, "stop", "--port", port], env=environment, check=True, timeout=60)


def wait_until_done(experiment: Experiment) -> None:
    give_up = time.monotonic() + DEADLINE
    while (status := experiment.ask("check-status"))["status"] != "DONE":
        assert status["status"] != "ERROR", status
        assert time.monotonic() < give_up, f"not done after {DEADLINE} s: {status}"
        time.sleep(0.5)


def chosen(trial: dict[str, Any]) -> dict[str, Any]:
    """The parameters that NNI gave a trial."""
    return json.loads(trial["hyperParameters"][0])["parameters"]


def test_nni_gets_what_the_run_folders_hold(experiment: Experiment) -> None:
    identity = experiment.ask("experiment")["id"]
    trials, reported = experiment.ask("trial-jobs"), experiment.ask("metric-data")
    assert {chosen(trial)["drop_path"]: trial["status"] for trial in trials} == {
        0.0: "SUCCEEDED",
        0.1: "SUCCEEDED",
        IMPOSSIBLE: "FAILED",
    }
    for trial in trials:
        name = trial["trialJobId"]
        run = experiment.folder / "runs/nni" / identity / name
        home = experiment.folder / "experiments" / identity / "environments/local-env"
        own = home / "trials" / name  # NNI's folder of the trial
        numbers: dict[str, list] = {"PERIODICAL": [], "FINAL": []}
        for metric in reported:
            if metric["trialJobId"] == name:
                numbers[metric["type"]].append(json.loads(json.loads(metric["data"])))
        if trial["status"] == "FAILED":
            assert "error: drop_path must lie in [0, 1): 1.5" in (own / "trial.stderr").read_text()
            assert numbers == {"PERIODICAL": [], "FINAL": []}
            continue
        assert (own / "run").resolve() == run.resolve()  # one leads to the other
        environment = json.loads((run / "environment.json").read_text())
        here = {"experiment": identity, "trial": name, "parameters": chosen(trial)}
        assert environment["nni"] == here
        assert (
            yaml.safe_load((run / "config.yaml").read_text())["drop_path"]
            == chosen(trial)["drop_path"]
        )
        with (run / "epochs.csv").open(newline="") as file:
            epochs = list(csv.DictReader(file))
        names = {"default": "srcc", "plcc": "plcc", "accuracy": "accuracy"}  # on validation
        rows = [{ours: float(row[name]) for ours, name in names.items()} for row in epochs]
        best = max(rows, key=lambda row: row["default"])
        assert len(rows) == 2
        assert numbers == {"PERIODICAL": rows, "FINAL": [best]}
        metrics = json.loads((run / "metrics.json").read_text())
        assert "test" not in metrics  # a search looks at validation only
        validation = metrics["val"]["targets"]["color"]["srcc"]["value"]
        assert validation == pytest.approx(best["default"], abs=1e-6)


def test_the_web_page_answers(experiment: Experiment) -> None:
    page = requests.get(f"{experiment.page}/oview", timeout=10)
    assert page.status_code == 200
    assert "<title>Neural Network Intelligence</title>" in page.text


def test_best_prints_the_best_trial_and_scores_it_once(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = experiment.ask("experiment")["id"]
    finals = {
        trial["trialJobId"]: json.loads(json.loads(trial["finalMetricData"][0]["data"]))["default"]
        for trial in experiment.ask("trial-jobs")
        if trial["status"] == "SUCCEEDED"
    }
    name = max(finals, key=finals.__getitem__)
    run = experiment.folder / "runs/nni" / identity / name
    command = [sys.executable, str(ROOT / "train_nni.py"), "best", "--experiment", identity]

    text = subprocess.run(
        command, cwd=experiment.folder, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "2 of 2 trials finished" in text  # the one that failed never made a run folder
    assert f"best trial: {name}, SRCC {finals[name]:.4f}" in text
    drop_path = yaml.safe_load((run / "config.yaml").read_text())["drop_path"]
    assert f"  drop_path: {drop_path}\n" in text
    assert f"checkpoint: runs/nni/{identity}/{name}/best" in text
    metrics = json.loads((run / "test/metrics.json").read_text())["test"]
    assert metrics["images"] == 150
    line = next(line for line in text.splitlines() if line.startswith("SRCC  "))
    assert f"{metrics['targets']['color']['srcc']['value']:.3f}" in line
    capsys.readouterr()
    again = ["--experiment", identity, "--runs", str(experiment.folder / "runs/nni")]
    show_best(again, lambda _: pytest.fail("the test split was scored twice"))
    assert capsys.readouterr().out.splitlines()[-6:] == text.splitlines()[-6:]
