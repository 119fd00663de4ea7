"""Attention on a CPU in one pass (`native/attention.cpp`): no logits held, nothing rearranged.

The results are those of `models/attention.py` to rounding. Call it where `runs_native` says so.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.native_code import call

PARTS = 8  # of the windows that share a bias, summed apart from each other: work for many threads

_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Rows(ctypes.Structure):
    """`Rows` of native/attention.cpp."""

    _fields_ = [("data", _POINTER), ("problem", _INT64), ("head", _INT64), ("row", _INT64)]


class _Attention(ctypes.Structure):
    """`Attention` of native/attention.cpp; what is not given is zero."""

    _fields_ = [
        *((name, _INT64) for name in ("problems", "heads", "queries", "keys", "width")),
        ("scale", ctypes.c_float),
        *((name, _Rows) for name in ("q", "k", "v", "out", "dq", "dk", "dv")),
        ("places", _POINTER),
        ("windows", _INT64),
        *((name, _POINTER) for name in ("bias", "dbias")),
        *((name, _INT64) for name in ("slots", "parts")),
        *((name, _POINTER) for name in ("table", "points", "grid", "dtable", "dpoints")),
        *((name, _INT64) for name in ("groups", "table_rows", "table_columns")),
    ]


def window_attention(qkv: Tensor, bias: Tensor, places: Tensor) -> Tensor:
    """softmax(q·k / √d + bias)·v inside windows: B×T×(3·h·d) → B×T×(h·d), T tokens an image.

    bias: (1 | n)×h×N×N, one for all n windows or one each. places: n×N int32, the token that is in
    each place of each window.
    """
    return _WindowAttention.apply(qkv, bias, places)


def delegate_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, points: Tensor, grid: Tensor
) -> Tensor:
    """softmax(q·k / √d + bias)·v of B×Q×C queries and B×N×C keys and values → B×Q×C.

    The bias of a head, a query and a point is read bilinearly from the head's matrix of table
    (h×rows×columns), which spans [−1, 1]², at half of grid (Q×2) less points (B×G×N×2), all (y, x).
    """
    return _DelegateAttention.apply(q, k, v, table, points, grid)


def _heads(x: Tensor, heads: int, part: int = 0, parts: int = 1) -> _Rows:
    """The heads of the `part`-th of equal parts of the channels of contiguous B×T×C."""
    width = x.shape[2] // parts // heads
    data = x.data_ptr() + part * heads * width * x.element_size()
    return _Rows(data, x.stride(0), width, x.stride(1))


def _call(backward: bool, **fields: Any) -> None:
    """Run the C++ function; tensors are handed over as where their numbers lie."""
    given = {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in fields.items()}
    given["scale"] = given["width"] ** -0.5
    call("attention", _Attention(**given), int(backward))


class _WindowAttention(torch.autograd.Function):
    """`window_attention`; keeps its inputs alone, and makes logits again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, places: Tensor) -> Tensor:
        qkv, bias = qkv.contiguous(), bias.contiguous()
        B, T, C = qkv.shape
        out = qkv.new_empty(B, T, C // 3)
        ctx.save_for_backward(qkv, bias, places)
        _call(False, **_WindowAttention._fields(qkv, bias, places, out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, places = ctx.saved_tensors
        gradient = gradient.contiguous()
        fields = _WindowAttention._fields(qkv, bias, places, gradient)
        h = fields["heads"]
        dqkv, dbias = torch.empty_like(qkv), bias.new_empty(fields["parts"], *bias.shape)
        dq, dk, dv = (_heads(dqkv, h, part, 3) for part in range(3))
        _call(True, **fields, dq=dq, dk=dk, dv=dv, dbias=dbias)
        return dqkv, dbias.sum(dim=0), None

    @staticmethod
    def _fields(qkv: Tensor, bias: Tensor, places: Tensor, out: Tensor) -> dict[str, Any]:
        """What forward and backward pass have in common."""
        slots, h, N, _ = bias.shape
        windows = len(places)
        problems = len(qkv) * windows
        q, k, v = (_heads(qkv, h, part, 3) for part in range(3))
        sizes = {"problems": problems, "heads": h, "queries": N, "keys": N}
        sizes |= {"width": out.shape[2] // h, "windows": windows, "slots": slots}
        sizes["parts"] = min(PARTS, problems) if slots == 1 else 1
        return {
            **sizes,
            "q": q,
            "k": k,
            "v": v,
            "out": _heads(out, h),
            "bias": bias,
            "places": places,
        }


class _DelegateAttention(torch.autograd.Function):
    """`delegate_attention`; keeps its inputs alone, as above."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        inputs = tuple(x.contiguous() for x in inputs)
        out = torch.empty_like(inputs[0])
        ctx.save_for_backward(*inputs)
        _call(False, **_DelegateAttention._fields(*inputs, out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, points, grid = ctx.saved_tensors
        gradient = gradient.contiguous()
        fields = _DelegateAttention._fields(q, k, v, table, points, grid, gradient)
        dq, dk, dv, dpoints = (torch.empty_like(x) for x in (q, k, v, points))
        dtable = table.new_empty(len(q), *table.shape)
        rows = {name: _heads(x, len(table)) for name, x in (("dq", dq), ("dk", dk), ("dv", dv))}
        _call(True, **fields, **rows, dtable=dtable, dpoints=dpoints)
        return dq, dk, dv, dtable.sum(dim=0), dpoints, None

    @staticmethod
    def _fields(
        q: Tensor, k: Tensor, v: Tensor, table: Tensor, points: Tensor, grid: Tensor, out: Tensor
    ) -> dict[str, Any]:
        """What forward and backward pass have in common."""
        h, rows, columns = table.shape
        B, Q, C = q.shape
        sizes = {"problems": B, "heads": h, "queries": Q, "keys": k.shape[1], "width": C // h}
        sizes |= {"groups": points.shape[1], "table_rows": rows, "table_columns": columns}
        heads = {name: _heads(x, h) for name, x in (("q", q), ("k", k), ("v", v), ("out", out))}
        return {**sizes, **heads, "table": table, "points": points, "grid": grid}
