"""Loading released and own weights with a report, saving our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from errors import UserError
from models.checkpoint_files import CONFIG_KEY, WEIGHTS_FILE, clean_names, read_state_dict
from models.delegate_transformer import ColorAesthetics, DelegateTransformer
from models.released import from_released, is_released

CONFIG_FILE = "config.json"
# Not of the body: what fine-tuning may start anew. Net_i and Net_g are not in ImageNet weights, and
# running averages only in weights trained with them.
RUNNING = (".running_interest", ".running_gate")
NEW_LAYERS = ("head.", "unused.", ".interest_net.", ".gate_net.", *RUNNING)


@dataclass
class WeightsReport:
    """What became of each tensor, by our name for it; `unexpected` ones that have none go by
    their name in the file."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # keep their starting values
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)  # position tables; also among `loaded`

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors loaded ({len(self.resized)} resized)"
        averages = [name for name in self.missing if name.endswith(RUNNING)]
        others = [name for name in self.missing if name not in averages]
        missing = f", {len(others)} missing{_sample(others)}"
        if averages:
            missing += f", {len(averages)} running averages of points missing: train to fill them"
        unexpected = f", {len(self.unexpected)} not used{_sample(self.unexpected)}"
        return counts + missing + unexpected


def _sample(names: list[str]) -> str:
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    more = ", …" if len(modules) > 4 else ""
    return f" ({', '.join(modules[:4])}{more})" if names else ""


def load_weights(
    model: ColorAesthetics,
    source: str | Path | Mapping[str, Tensor],
    *,
    allow_partial: bool = False,
) -> WeightsReport:
    """Load released (ICAA17K, SPAQ, AVA, DAT ImageNet) or own weights into `model`.

    `source` is a file, a folder of ours, or a state dict; tensors may sit under `model` or
    `state_dict` and carry `module.` prefixes. Score heads are matched by the target they predict
    where the file tells it. Position tables of another image size are resized (bicubic).
    Raises `UserError`, the model untouched, for unreadable files, another architecture, and where
    a part of the body is missing, unless `allow_partial`.
    """
    if isinstance(source, Mapping):
        state, metadata, label = clean_names(source), {}, "the state dict"
    else:
        state, metadata = read_state_dict(Path(source))
        label = str(source)
    left: list[str] = []
    targets = tuple(metadata["targets"]) if "targets" in metadata else None
    if isinstance(model, DelegateTransformer) and is_released(state):
        state, left, targets = from_released(model, state)
    state = _match_heads(state, targets, model.config.targets)

    report = WeightsReport(unexpected=left)
    values, misfits = _fit(model, state, report)
    body_missing = [n for n in report.missing if not any(part in n for part in NEW_LAYERS)]
    if misfits or (body_missing and not allow_partial) or not report.loaded:
        raise UserError(_refusal(model, label, misfits, body_missing, bool(report.loaded)))
    model.load_state_dict(values, strict=False)
    return report


def _match_heads(
    state: Mapping[str, Tensor], theirs: tuple[str, ...] | None, ours: tuple[str, ...]
) -> dict[str, Tensor]:
    """Give score heads the index of the target that they predict; without knowledge of the
    targets, keep them where their number is the model's."""
    heads = {n.split(".")[2] for n in state if n.startswith("head.scores.")}
    if theirs is None:
        index = {h: h for h in heads} if len(heads) == len(ours) else {}
    else:
        index = {str(i): str(ours.index(t)) for i, t in enumerate(theirs) if t in ours}
    matched = {}
    for name, value in state.items():
        parts = name.split(".")
        if name.startswith("head.scores."):
            parts[2] = index.get(parts[2], f"{parts[2]} (another target)")
            name = ".".join(parts)
        matched[name] = value
    return matched


def _fit(
    model: nn.Module, state: Mapping[str, Tensor], report: WeightsReport
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that fit, by name, and a line for each of the body's that does not."""
    values, misfits = {}, []
    own = model.state_dict()
    for name, old in own.items():
        new = state.get(name)
        if new is not None and new.shape != old.shape and name.endswith("position_bias_table"):
            new = resize_position_table(new, old)
            report.resized += [name] if new.shape == old.shape else []
        if new is not None and new.shape == old.shape:
            values[name] = new
            report.loaded.append(name)
            continue
        report.missing.append(name)
        is_other_kind = new is not None and _is_other_kind(name, new, old)
        if new is not None and (is_other_kind or any(part in name for part in NEW_LAYERS)):
            report.unexpected.append(name)
        elif new is not None:
            misfits.append(f"{name} is {tuple(new.shape)}, not {tuple(old.shape)}")
    report.unexpected += [name for name in state if name not in own]
    return values, misfits


def _is_other_kind(name: str, new: Tensor, old: Tensor) -> bool:
    """Whether a position table is a window layer's and not a delegate layer's, or the other way
    round: with other `stages` such a layer is missing, and not of another size."""
    return name.endswith("position_bias_table") and new.ndim != old.ndim


def resize_position_table(table: Tensor, like: Tensor) -> Tensor:
    """Bicubic resize of a position bias table to the size of `like`; heads stay as they are.

    Tables are (2w−1)²×heads (windows) or heads×(2H−1)×(2W−1) (delegate layers). One whose layout
    or number of heads differs comes back unchanged.
    """
    if table.ndim != like.ndim:
        return table
    if table.ndim == 3 and len(table) == len(like):
        return F.interpolate(
            table[None].float(), size=like.shape[1:], mode="bicubic", align_corners=True
        )[0]
    side, new_side = round(len(table) ** 0.5), round(len(like) ** 0.5)
    if table.ndim == 2 and table.shape[1] == like.shape[1] and side**2 == len(table):
        maps = table.T.reshape(1, -1, side, side).float()
        maps = F.interpolate(maps, size=(new_side, new_side), mode="bicubic", align_corners=True)
        return maps.reshape(-1, new_side**2).T.contiguous()
    return table


def _refusal(
    model: ColorAesthetics, label: str, misfits: list[str], missing: list[str], any_loaded: bool
) -> str:
    name = model.config.name
    if misfits or not any_loaded:
        reason = misfits[0] if misfits else "no tensor bears a name of this network"
        return f"{label} is of another architecture than {name} ({reason})"
    return (
        f"{label} lacks {len(missing)} tensors of {name}'s body ({', '.join(missing[:3])}, …): "
        "is it of another network? Allow a partial load to start the rest anew"
    )


def save_model(
    model: ColorAesthetics, folder: Path, extra: Mapping[str, Any] | None = None
) -> None:
    """Write `config.json` (model configuration and `extra`) and `model.safetensors`."""
    config = model.config.to_dict()
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={CONFIG_KEY: json.dumps(config)})
    content = {CONFIG_KEY: config, **(extra or {})}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
