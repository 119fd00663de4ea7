"""Reading weights from disk without running what is in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from errors import UserError

WEIGHTS_FILE = "model.safetensors"
CONFIG_KEY = "model"  # of a safetensors file's metadata and of config.json


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict (by name, without `module.` prefixes) and our own metadata, if any.

    Takes a `.safetensors` file, a torch file (flat, or under `model` or `state_dict`), or a folder
    with `model.safetensors`. Raises `UserError` for what is none of these: a missing or truncated
    file, a web page, a pickle that holds more than tensors.
    """
    path = path / WEIGHTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no weights at {path}: give a checkpoint file or folder")
    refuse_text(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors (a pickle can run code), so it was not loaded: save "
            f"its state_dict() with a torch you trust it to ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is truncated or no torch checkpoint: download it again ({_first_line(error)})"
        ) from error
    return _unwrap(path, content), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        state = load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error})") from error
    return _unwrap(path, state), json.loads(metadata.get(CONFIG_KEY, "{}"))


def refuse_text(path: Path) -> None:
    """Raise `UserError` for an empty file and for a page or pointer saved in a file's place."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"{path} is a web page, not a checkpoint: the download failed (a quota page, often); "
            "open the link in a browser, or download it again later"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file: run git lfs pull")


def _unwrap(path: Path, content: object) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return clean_names({k: v for k, v in content.items() if isinstance(v, Tensor)})


def clean_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the `module.` that DataParallel puts in front."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
