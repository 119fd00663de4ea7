"""Where a run's configuration comes from: files, flags, NNI, a checkpoint, a run to resume."""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from config import FIELDS, TrainConfig, choices_of, kind_of
from config_values import hint
from errors import UserError
from models import OPTIONS

CONFIG = "config.yaml"  # of a run folder


def resolve_config(argv: Sequence[str], nni_parameters: Mapping[str, Any]) -> TrainConfig:
    """The configuration that flags, the file they name and NNI's parameters make together.

    With --resume the interrupted run's own configuration takes the defaults' place, and with
    --evaluate the network of the checkpoint folder does. Raises `UserError` for anything unknown,
    of the wrong type or out of range, and for a resumed run that would not be the same one.
    """
    path, flags = from_command_line(argv)
    layers = [(str(path), from_yaml(path))] if path else []
    layers += [("command line", flags), ("NNI", nni_parameters)]
    given = {key: value for _, values in layers for key, value in values.items()}
    resume = str(given.get("resume", "off")).lower()
    if resume not in ("off", "false") and given.get("output"):
        path = Path(given["output"]) / CONFIG
        if resume != "auto" or path.is_file():
            return _resumed(path, layers)
    if given.get("evaluate") and given.get("init_from"):
        layers.insert(0, _checkpoint_layer(Path(given["init_from"]), given.get("dataset")))
    return TrainConfig.from_layers(*layers)


def _resumed(path: Path, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> TrainConfig:
    """The configuration saved at `path` with what may change: epochs, workers, device, ...

    With other `epochs` a cosine schedule takes another course from here on.
    Raises `UserError` naming whatever else `layers` would change.
    """
    if not path.is_file():
        raise UserError(f"cannot resume: {path.parent} holds no run ({path.name} is not there)")
    saved = (str(path), from_yaml(path))
    config = TrainConfig.from_layers(saved, *layers)
    before, after = TrainConfig.from_layers(saved).to_dict(), config.to_dict()
    free = [name for name, spec in FIELDS.items() if spec.metadata["free_on_resume"]]
    changed = [
        f"{key} {before.get(key)} -> {value}"
        for key, value in after.items()
        if key not in free and before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"cannot resume {path.parent} with another configuration: {', '.join(changed)}; only "
            f"{', '.join(free)} may change"
        )
    return config


def _checkpoint_layer(folder: Path, dataset: str | None) -> tuple[str, dict[str, Any]]:
    """The network saved in `folder` and the data set it was trained on; nothing for a bare file.

    The targets come along unless it is to be evaluated on another `dataset`, with its own.
    """
    path = folder / "config.json"
    if not path.is_file():
        return str(folder), {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        model = saved["model"]
        options = {key: model[key] for key in OPTIONS if model.get(key) is not None}
        layer = {"model": model["name"], "recipe": model["recipe"], **options}
        layer["dataset"] = saved["dataset"]
        if saved["dataset"] != "ava" and dataset in (None, saved["dataset"]):
            layer["score_columns" if saved["dataset"] == "csv" else "targets"] = model["targets"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a model's configuration ({error!r})") from error
    if "backbone_weights" in layer:
        layer["backbone_weights"] = "none"  # the checkpoint holds the backbone's weights
    return str(path), layer


def from_command_line(argv: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """Path of `--config`, and the flags given as {key: value}. Raises `UserError`."""
    parser = _parser()
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"unknown argument {unknown[0]!r}{hint(unknown[0].split('=')[0], flags)}")
    values = vars(known)
    return values.pop("config"), values


def from_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises `UserError` if it is missing or no mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read configuration {path}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected lines of `key: value`, found {type(values).__name__}")
    return values


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UserError`s."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def _parser() -> _Parser:
    """One flag for each field of `TrainConfig` and each option of the models."""
    parser = _Parser("train_nni.py", description="Train and evaluate.", allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file of the keys below, with _ for -")
    helps = {name: f.metadata["help"] for name, f in FIELDS.items()}
    helps |= {name: f"model: {spec.help}" for name, spec in OPTIONS.items()}
    for name, text in helps.items():
        if choices_of(name):
            text += f" [{', '.join(choices_of(name))}]"
        extra: dict[str, Any] = {}
        if kind_of(name) is bool:
            extra["action"] = argparse.BooleanOptionalAction
        if name == "resume":
            extra |= {"nargs": "?", "const": "on"}
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **extra,
        )
    return parser
