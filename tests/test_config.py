"""Where hyperparameters come from, which source wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from config import FIELDS, TrainConfig
from config_layers import from_command_line, resolve_config
from errors import UserError
from models import OPTIONS

# Section 5 of the paper's protocol as released.
PUBLISHED = {
    "icaa17k": {
        "optimizer": "adam",
        "lr": 1e-5,
        "schedule": "constant",
        "epochs": 40,
        "batch_size": 16,
        "loss": "mse",
        "resize_ratio": 256 / 224,
    },
    "spaq": {
        "optimizer": "adam",
        "lr": 1e-5,
        "schedule": "constant",
        "epochs": 20,
        "batch_size": 32,
        "loss": "mse",
        "resize_ratio": 1.0,
    },
    "ava": {
        "optimizer": "adam",
        "lr": 1e-6,
        "schedule": "step",
        "step_epochs": 5,
        "step_factor": 0.1,
        "epochs": 20,
        "batch_size": 16,
        "loss": "emd",
        "resize_ratio": 1.0,
    },
}


def resolve(*argv: str, nni: dict[str, Any] | None = None) -> TrainConfig:
    return resolve_config(argv, nni or {})


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_hyperparameters_are_the_defaults(dataset: str) -> None:
    config = resolve("--dataset", dataset)
    expected = {"model": "delegate_base", "weight_decay": 0.0, "new_layer_lr_factor": 1.0}
    expected |= {"warmup_epochs": 0.0, "grad_clip": None, **PUBLISHED[dataset]}
    assert {key: getattr(config, key) for key in expected} == expected


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 3\nlr: 1e-4\nbatch_size: 8\ncolor_spaces: 4\namp: off\n")
    argv = ["--config", str(file), "--lr", "2e-4", "--batch-size", "9"]
    config = resolve(*argv, nni={"batch_size": 10.0, "drop_path": 0.2})
    assert (config.epochs, config.lr, config.batch_size) == (3, 2e-4, 10)
    assert isinstance(config.batch_size, int)
    assert config.model_options == {"color_spaces": 4, "drop_path": 0.2}
    assert config.optimizer == "adamw"  # the sample's own default
    assert config.amp == "off"


def test_the_dataset_of_a_file_chooses_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("dataset: spaq\n")
    assert resolve("--config", str(file)).batch_size == 32


def test_every_key_is_a_flag_and_survives_the_file(tmp_path: Path) -> None:
    values = {
        int: "3",
        float: "0.5",
        str: "x",
        bool: None,
    }
    flags = []
    for name, option in OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        value = option.choices[0] if option.choices else values[option.type]
        flags += [flag] if value is None else [flag, value]
    flags += ["--targets", "MOS,color", "--score-range", "1,7", "--seeds", "0, 1", "--no-evaluate"]
    flags += ["--grad-clip", "none", "--data-root", "a b"]
    config = resolve(*flags)
    assert set(OPTIONS) == set(config.model_options)
    assert config.targets == ("MOS", "color")
    assert config.score_range == (1.0, 7.0)
    assert config.seeds == (0, 1)
    assert config.grad_clip is None
    assert config.data_root == Path("a b")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert resolve("--config", str(file)) == config
    assert set(config.to_dict()) == set(FIELDS) | set(OPTIONS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batchsize", "4"], "unknown argument '--batchsize': did you mean --batch-size"),
        (["--batch", "4"], "unknown argument '--batch'"),  # no abbreviations
        (["stray"], "unknown argument 'stray'"),
        (["--lr"], "expected one argument"),
        (["--batch-size", "0"], "--batch-size must be above 0, not 0"),
        (["--batch-size", "4.5"], "batch_size must be of type int, not '4.5'"),
        (["--epochs", "-1"], "--epochs must be above 0, not -1"),
        (["--lr", "nan"], "lr must be of type float, not 'nan'"),
        (["--val-fraction", "1"], "--val-fraction must be between 0 and 1"),
        (["--score-range", "1,2,3"], "score_range must be of type"),
        (["--dataset", "icaa"], "unknown dataset 'icaa': did you mean icaa17k"),
        (["--model", "delegate_bas"], "unknown model 'delegate_bas': did you mean delegate_base"),
        (["--loss", "emd"], "emd compares rating distributions"),
        (["--dataset", "ava", "--loss", "mse"], "emd compares rating distributions"),
        (["--device", "gpu"], "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        (["--evaluate"], "--evaluate needs .* --init-from"),
        (["--resume"], "--resume needs --output"),
        (["--seeds", "1,1"], "seeds must differ"),
        (["--config", "absent.yaml"], "cannot read configuration absent.yaml"),
    ],
)
def test_refused_on_the_command_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_siez: 4", "run.yaml: unknown key 'batch_siez': did you mean batch_size"),
        ("batch_size: many", "run.yaml: batch_size must be of type int, not 'many'"),
        ("batch_size: true", "run.yaml: batch_size must be of type int, not True"),
        ("lr: [1, 2]", r"run.yaml: lr must be of type float, not \[1, 2\]"),
        ("skip_broken: 3", "run.yaml: skip_broken must be of type bool, not 3"),
        ("epochs:", "run.yaml: epochs must be of type int, not None"),
        ("- 1", "expected lines of `key: value`"),
        ("a: [", "cannot read configuration"),
    ],
)
def test_refused_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        resolve("--config", str(file))


def test_refused_from_nni() -> None:
    with pytest.raises(UserError, match="NNI: unknown key 'learning_rate'"):
        resolve(nni={"learning_rate": 1e-3})


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        from_command_line(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for key in [*FIELDS, *OPTIONS]:
        assert "--" + key.replace("_", "-") in text
