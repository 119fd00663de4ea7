"""From whatever holds trained weights to the network that they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from models.checkpoint_files import CONFIG_KEY, WEIGHTS_FILE, read_state_dict
from models.delegate_transformer import ColorAesthetics
from models.factory import build_from_config, build_model
from models.options import ARCHITECTURES, AVA_BINS, ModelConfig
from models.released import RELEASED_TARGETS, SLOPES, is_released, rename_table
from models.weights import CONFIG_FILE, load_weights

# Variant and targets of the files that the authors released, and of those we can write like them.
RELEASED_HEADS = [
    ("icaa17k", RELEASED_TARGETS),
    ("icaa17k", RELEASED_TARGETS[-1:]),
    ("spaq", ("Colorfulness",)),
    ("ava", AVA_BINS),
]


def load_model(source: str | Path) -> ColorAesthetics:
    """Rebuild a trained network, in evaluation mode.

    `source` is a run folder (its best checkpoint), a checkpoint folder, a `.safetensors` file of
    ours or a released `.pth` file, whose size and variant are read off its tensors. What was saved
    beside the configuration is in `model.extra`; files alone have nothing there. Raises `UserError`
    where there are no weights, where they are incomplete, and where they are of no known network.
    """
    path = Path(source)
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        path = path.parent
    if path.is_dir():
        best = path / "best"
        has_own = (path / CONFIG_FILE).is_file()
        return _load_folder(path if has_own or not best.is_dir() else best)
    state, metadata = read_state_dict(path)
    config = ModelConfig.from_dict(metadata) if metadata else recognise(state, path)
    return _fill(config, path)


def _load_folder(folder: Path) -> ColorAesthetics:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"no model in {folder}: it has no {CONFIG_FILE}")
    try:
        extra = json.loads(path.read_text(encoding="utf-8"))
        config = ModelConfig.from_dict(extra.pop(CONFIG_KEY))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a model's configuration ({error!r})") from error
    return _fill(config, folder, extra)


def _fill(
    config: ModelConfig, source: Path, extra: Mapping[str, Any] | None = None
) -> ColorAesthetics:
    """The network of `config` with all of its weights from `source`."""
    model = build_from_config(config, load_backbone=False)
    report = load_weights(model, source)
    missing = [name for name in report.missing if not name.startswith("unused.")]
    if missing:
        raise UserError(f"the weights in {source} are incomplete: {report}")
    model.extra = dict(extra or {})
    return model.eval()


def recognise(state: Mapping[str, Tensor], label: str | Path = "the state dict") -> ModelConfig:
    """Configuration of the network whose trained weights `state` holds, by names and shapes.

    Takes released names and ours; delegate_cnn is not recognised. Raises `UserError` where no
    network fits, a body without a score head among them.
    """
    tensors = {(name, tuple(value.shape)) for name, value in state.items()}
    candidates = _candidates(released=is_released(state))
    fits = [(len(needed), config) for config, needed in candidates if needed <= tensors]
    if not fits:
        raise UserError(
            f"{label} is not recognised as a trained network: it lacks a score head (a body to "
            "fine-tune from: train_nni.py --init-from), or it is another network. Folders that "
            "train_nni.py writes say what they hold"
        )
    # A deeper network's tensors include a shallower one's: the fit that explains most is the one.
    return max(fits, key=lambda fit: fit[0])[1]


def _candidates(released: bool) -> Iterator[tuple[ModelConfig, set[tuple[str, tuple[int, ...]]]]]:
    """Networks with the names and shapes of the parameters that they cannot do without."""
    for name in ARCHITECTURES:
        if name == "delegate_cnn":
            continue
        for variant, targets in RELEASED_HEADS:
            with torch.device("meta"):
                model = build_model(name, variant, targets=targets)
            shapes = [tuple(value.shape) for value in model.state_dict().values()]
            needed = {
                (row.name, row.shape) if released else (ours, shape)
                for (ours, row), shape in zip(rename_table(model).items(), shapes, strict=True)
                if not ours.startswith("unused.") and row.name != SLOPES  # it has a second name
            }
            yield model.config, needed
