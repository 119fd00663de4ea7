"""The experiment files: NNI's own reader takes them, and train_nni.py takes all they can choose."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from config_layers import resolve_config

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "config.yml", *sorted(ROOT.glob("configs/*.yml"))]
FILES += sorted(ROOT.glob("reproduce/*.yml"))


def read_by_nni(path: Path, tmp_path: Path) -> Any:
    """NNI's canonical, validated form of an experiment file."""
    from nni.experiment.config import ExperimentConfig

    config = ExperimentConfig.load(path)
    key = tmp_path / "key"  # NNI looks whether the key is there, and only that
    key.touch()
    for machine in getattr(config.training_service, "machine_list", []):
        machine.ssh_key_file = key
    config.validate()
    return config.canonical_copy()


def switched_in(text: str, experiment: str) -> dict[str, Any]:
    """config.yml with the commented lines of `experiment` in the place of the active ones."""
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    spaq = next(i for i, line in enumerate(lines) if line == "experimentName: spaq")
    values = yaml.safe_load(text)
    del values["searchSpace"]
    values |= yaml.safe_load("\n".join(lines[:spaq]))
    values["searchSpaceFile"] = str(ROOT / values["searchSpaceFile"])
    if experiment == "spaq":  # of which only what differs is there
        del values["searchSpaceFile"]
        values |= yaml.safe_load("\n".join(lines[spaq:]))
    return values


def points_of(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Every point of a grid; the ends of a range stand for it; the Batch tuner's own list."""
    if "combine_params" in space:
        return space["combine_params"]["_value"]
    values = [spec["_value"] for spec in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def check(config: Any) -> None:
    assert config.tuner.name in ("TPE", "GridSearch", "Batch")
    for algorithm in (config.tuner, config.assessor):
        if algorithm and algorithm.name not in ("GridSearch", "Batch"):
            assert algorithm.class_args["optimize_mode"] == "maximize"
    assert config.trial_code_directory == str(ROOT)
    roles = getattr(config.training_service, "task_roles", [])
    command = roles[0].command if roles else config.trial_command
    program, script, *flags = shlex.split(command)
    assert (Path(program).name, script) == ("python", "train_nni.py")
    for point in points_of(config.search_space):
        resolve_config(flags, point)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_experiment_files_are_accepted(path: Path, tmp_path: Path) -> None:
    config = read_by_nni(path, tmp_path)
    check(config)
    if config.tuner.name != "TPE":
        assert len(points_of(config.search_space)) == config.max_trial_number


@pytest.mark.parametrize("experiment", ["icaa17k", "spaq"])
def test_the_lines_to_switch_in_are_whole(experiment: str, tmp_path: Path) -> None:
    values = switched_in((ROOT / "config.yml").read_text(encoding="utf-8"), experiment)
    values["trialCodeDirectory"] = str(ROOT)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(values))
    config = read_by_nni(path, tmp_path)
    check(config)
    assert f"--dataset {experiment}" in config.trial_command
    alone = read_by_nni(ROOT / "configs" / f"{experiment}.yml", tmp_path)
    assert config.search_space == alone.search_space  # the published one
    assert config.training_service.use_active_gpu


def test_published_search_spaces() -> None:
    published = {
        "icaa17k": ([24, 32, 40], [1e-5, 3e-5, 1e-4]),
        "spaq": ([16, 24, 32, 40], [1e-5, 3e-5, 5e-5]),
        "ava": ([16, 24, 32], [1e-5, 1e-6]),
    }
    for name, (batch_size, lr) in published.items():
        values = yaml.safe_load((ROOT / "configs" / f"{name}.yml").read_text(encoding="utf-8"))
        space = values.get("searchSpace") or json.loads((ROOT / "search_space.json").read_text())
        assert (space["batch_size"]["_value"], space["lr"]["_value"]) == (batch_size, lr)
