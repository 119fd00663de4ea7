"""Values of hyperparameters: from text, YAML and JSON to the type of a key, and their checks."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from errors import UserError


def as_type(value: Any, kind: Any) -> Any:
    """`value` as `kind`; raises `TypeError` or `ValueError` where it is not one."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # X | None
        absent = value is None or value == "none"
        return None if absent else as_type(value, arguments[0])
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else list(value)
        if arguments[-1] is not Ellipsis and len(items) != len(arguments):
            raise ValueError
        strip = (item.strip() if isinstance(item, str) else item for item in items)
        return tuple(as_type(item, arguments[0]) for item in strip)
    if isinstance(value, (Mapping, list, types.NoneType)):
        raise TypeError
    if kind is bool or isinstance(value, bool):
        words = {"true": True, "false": False}
        if kind is not bool or (not isinstance(value, bool) and str(value).lower() not in words):
            raise TypeError
        return words[str(value).lower()]
    if kind is int:  # 16, "16" and 16.0 (NNI's quniform), but not 16.5
        number = int(value) if isinstance(value, str) else value
        if number != int(number):
            raise ValueError
        return int(number)
    if kind is float:  # "1e-5" too: YAML reads that as text
        if not math.isfinite(float(value)):
            raise ValueError
        return float(value)
    return Path(str(value)).expanduser() if kind is Path else str(value)


def check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raise `UserError` unless `value` is one of the choices, and what a number must be."""
    choices, must = metadata["choices"], metadata["must"]
    if choices and value not in choices:
        raise UserError(
            f"unknown {name} {value!r}{hint(value, choices)}; known are {', '.join(choices)}"
        )
    if must and value is not None and not must[0](value):
        flag = "--" + name.replace("_", "-")
        raise UserError(f"{flag} must be {must[1]}, not {value}")


def hint(word: str, known: Iterable[str]) -> str:
    """The names nearest to `word`, as the end of a message; nothing where none is near."""
    close = difflib.get_close_matches(word, list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else ""
