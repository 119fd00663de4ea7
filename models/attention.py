"""softmax(q·k / √d + bias)·v, as it is fastest on each device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_KEYS = 64


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, repeats: int | None = None) -> Tensor:
    """L×h×N×d queries, L×h×M×d keys and values, l×h×N×M bias → L×h×N×d.

    The bias is broadcast where l is 1, or repeated along the first dimension: L = repeats·l.

    On a CPU the products are written out where scaled_dot_product_attention is slower: with few
    keys, and with gradients, since it then looks for rows that are masked throughout (of which
    there are none).
    """
    written_out = torch.is_grad_enabled() or k.shape[2] <= FEW_KEYS
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not written_out:
        mask = bias if repeats is None else bias.repeat(repeats, 1, 1, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    L, h, N, d = q.shape
    q, k, v = (t.reshape(L * h, -1, d) for t in (q, k, v))
    no_summand = q.new_empty(1, 1, 1)
    logits = torch.baddbmm(no_summand, q, k.transpose(1, 2), beta=0, alpha=d**-0.5)
    logits = logits.view(-1, *bias.shape).add_(bias).view(L * h, N, -1)
    return torch.bmm(logits.softmax(dim=-1), v).view(L, h, N, d)
