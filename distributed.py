"""Several processes that train one network: all that they say to each other.

    torchrun --nproc_per_node=4 train_nni.py ...                       # four GPUs of one machine
    torchrun --nnodes=2 --node_rank=0 --nproc_per_node=4 \
        --master_addr=10.0.0.1 --master_port=29500 train_nni.py ...    # machine 0 of two

Without torchrun there is one process, rank 0 of 1, and every function here is trivial.
Gradients and weights go through gloo on CPUs and NCCL on GPUs, everything else through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from errors import UserError

# A process that died is noticed at once, by its closed connection; one that hangs, after this long.
TIMEOUT = timedelta(minutes=10)
CPU = torch.device("cpu")
T = TypeVar("T")


def rank() -> int:
    """Number of this process, 0 .. world() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun, the GPU with its number on its machine.

    Raises `UserError` where a machine has fewer GPUs than processes.
    """
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "cpu" or local_world == 1:
        return device
    if device.index is not None:
        raise UserError(f"--device {device} names one GPU for {local_world} processes: use auto")
    if local_world > torch.cuda.device_count():
        raise UserError(
            f"torchrun started {local_world} processes on a machine with "
            f"{torch.cuda.device_count()} GPUs: lower --nproc_per_node, or use --device cpu"
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; only rank 0 prints."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    if rank() == 0:
        yield
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    # After an error the others may be gone, so leaving in good order is for good ends only.
    dist.destroy_process_group()


def on_main(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 only; every rank gets its result, or its `UserError`."""
    if world() == 1:
        return function()
    answer: list = [None, None]
    if rank() == 0:
        try:
            answer = [function(), None]
        except UserError as error:
            answer = [None, str(error)]
    dist.broadcast_object_list(answer, src=0, device=CPU)
    result, error = answer
    if error is not None:
        raise UserError(error)
    return result


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    if world() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def summed(values: Tensor) -> Tensor:
    """Elementwise sum over the ranks."""
    if world() == 1:
        return values
    total = values.cpu()
    dist.all_reduce(total)
    return total.to(values.device)


def gathered(values: Tensor, indices: Tensor, count: int) -> Tensor:
    """Rows of all ranks, N_r x T each, put at their `indices`: count x T on the CPU.

    Shards may be uneven. Raises `RuntimeError` unless every index came exactly once.
    """
    table = torch.zeros(count, values.shape[1] + 1, dtype=values.dtype)
    table.index_add_(0, indices, nn.functional.pad(values.cpu(), (0, 1), value=1.0))
    table = summed(table)
    if not (table[:, -1] == 1).all():
        raise RuntimeError("the ranks' shards overlap or leave images out")
    return table[:, :-1]


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with its gradients averaged over the ranks; it starts everywhere as on rank 0."""
    if world() == 1:
        return model
    ids = [device] if device.type == "cuda" else None
    # static_graph: parameters that take no part in the forward pass are no error.
    return DistributedDataParallel(model, device_ids=ids, static_graph=True)


def share_weights(model: nn.Module) -> None:
    """Copy rank 0's parameters and buffers to the other ranks."""
    if world() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
