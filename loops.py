"""The two loops over batches: an epoch of training steps, and the scores of a split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distributed import gathered, largest, rank, summed, world
from ema import AveragedWeights
from errors import UserError
from losses import Objective
from models import dead_color_points
from preemption import StopRequest
from progress import Progress
from setting import Setting
from util import autocast, lr_factor, progress_bar, seed_everything, step_seed

CHECK_EVERY = 50  # steps between looks at the loss; a look waits for the device


@dataclass(frozen=True)
class Training:
    """What takes part in the steps."""

    model: nn.Module
    network: nn.Module  # the same, its gradients averaged over the processes if there are several
    loader: DataLoader
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    weights: Tensor | None  # N of the training images, mean 1; None: all are alike
    average: AveragedWeights | None  # --ema-decay


def train_epoch(
    setting: Setting, training: Training, progress: Progress, stop: StopRequest
) -> None:
    """Steps of the epoch after `progress.epoch`, from `progress.step` to its end or a stop request.

    Leaves in `progress` the steps that are done and the sum of their images' losses. Raises
    `UserError` at a loss that is not finite, naming epoch and step.
    """
    config, device, model = setting.config, setting.device, training.model
    optimizer, scaler, batches = training.optimizer, training.scaler, training.loader.batch_sampler
    epoch, steps = progress.epoch + 1, batches.steps
    training.network.train()
    training.loader.dataset.set_epoch(epoch)
    batches.first = first = progress.step
    total = torch.tensor(progress.loss_sum, device=device)
    first_bad = torch.tensor(-1, device=device)  # step of the first loss that is not finite
    bar = progress_bar(training.loader, f"epoch {epoch}")
    for step, (images, target, index) in enumerate(bar, start=first):
        # Drop path depends on these four alone, so that a resumed run repeats it.
        seed_everything(step_seed(config.seed, epoch, step, rank()))
        factor = lr_factor(config, epoch - 1 + (step + 0.5) / steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.zero_grad(set_to_none=True)  # before the pass, whose activations want the memory
        target = target.to(device, non_blocking=True)
        with autocast(config, device):
            prediction = training.network(images.to(model, device))
        weight = None if training.weights is None else training.weights[index.to(device)]
        loss = training.objective(prediction, target, weight) * batches.weight(step)

        scaler.scale(loss).backward()
        if config.grad_clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        if training.average:
            training.average.update()

        # Sums stay on the device: reading one every step would make the host wait for it.
        total += loss.detach() * batches.size(step)
        first_bad = torch.where((first_bad < 0) & ~loss.detach().isfinite(), step, first_bad)
        progress.step = step + 1
        stopping = largest(int(bool(stop))) > 0
        if progress.step % CHECK_EVERY == 0 or progress.step == steps or stopping:
            check_finite(largest(int(first_bad)), epoch, steps)
        if stopping:
            break
    progress.loss_sum = float(summed(total)) / world()


def check_finite(first_bad: int, epoch: int, steps: int) -> None:
    """Raise `UserError` if `first_bad`, the step of a loss that is not finite, is not -1."""
    if first_bad >= 0:
        raise UserError(
            f"the loss is not finite at epoch {epoch}, step {first_bad + 1} of {steps}: lower --lr,"
            " set --grad-clip or use --amp off; the checkpoints of earlier epochs are kept"
        )


def confidence_weights(setting: Setting) -> Tensor | None:
    """Weights N of the training images: confidence to the power of --confidence-power, over its
    mean; None where that is off."""
    confidence = setting.splits["train"].confidence
    if confidence is None:
        return None
    weights = confidence**setting.config.confidence_power
    return torch.from_numpy(weights / weights.mean()).float().to(setting.device)


@torch.inference_mode()
def predict(
    setting: Setting, model: nn.Module, loader: DataLoader, name: str
) -> tuple[np.ndarray, float]:
    """Unit scores N x T in the split's order, and the share of dead color points.

    With --flip-tta a score is the mean of the image's and its mirror image's. The share is nan for
    a head without color spaces. Raises `UserError` at a score that is not finite.
    """
    model.eval()
    count, targets = len(loader.dataset), loader.dataset.targets.shape[1]
    # Of several processes one may have no batch.
    scores = [torch.empty(0, targets, device=setting.device)]
    indices = [torch.empty(0, dtype=torch.int64)]
    dead = torch.zeros((), device=setting.device)
    for images, _, index in progress_bar(loader, name):
        with autocast(setting.config, setting.device):
            images = images.to(model, setting.device)
            batch_scores, _, weights = model.head(model.forward_features(images))
            if setting.config.flip_tta:
                batch_scores = (batch_scores.float() + model(images.flip(3)).float()) / 2
        scores.append(batch_scores.float())
        indices.append(index)
        if weights is not None:
            dead += dead_color_points(weights, model.config.num_color_points) * len(images)
    result = gathered(torch.cat(scores), torch.cat(indices), count).double().numpy()
    if not np.isfinite(result).all():
        raise UserError(f"{name}: the network's scores are not finite numbers; lower --lr")
    share = float(summed(dead)) / count if model.config.color_spaces else math.nan
    return result, share
