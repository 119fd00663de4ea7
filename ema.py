"""An exponential moving average of the weights: `--ema-decay`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedWeights:
    """A copy of a network whose parameters follow the original's, a little after every step.

    average = decay x average + (1 - decay) x weights. After n steps the decay is at most
    (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage: else a short training would
    end with the average still near its start. Buffers (batch norm's statistics, position
    indices) are the original's as they are: only some of them could be averaged at all.

    `network` is the copy: evaluated, and saved as the checkpoint's weights. `state_dict` holds
    what resuming needs besides it: the weights that the steps change, and n.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = AveragedModel(model, multi_avg_fn=self._average)

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.average.module

    def update(self) -> None:
        """Take in the weights after a step."""
        self.average.update_parameters(self.model)

    def _average(self, averages: list[Tensor], weights: list[Tensor], steps: Tensor) -> None:
        number = int(self.average.n_averaged)  # on the CPU, unlike `steps`: nothing waits for a GPU
        decay = min(self.decay, (1 + number) / (10 + number))
        get_ema_multi_avg_fn(decay)(averages, weights, steps)

    def state_dict(self) -> dict[str, Any]:
        """The weights that the steps change, and the number of steps."""
        return {"weights": self.model.state_dict(), "steps": int(self.average.n_averaged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put both back; the average itself is in the checkpoint's weights."""
        self.model.load_state_dict(state["weights"])
        self.average.n_averaged.fill_(state["steps"])
