"""What can be asked of `build_model`: sizes, variants, options and the two recipes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from errors import UserError


@dataclass(frozen=True)
class Architecture:
    """Sizes of one network; four values stand for the four stages."""

    dims: tuple[int, int, int, int]  # channels
    depths: tuple[int, int, int, int]  # attention layers
    heads: tuple[int, int, int, int]
    groups: tuple[int, int]  # offset groups of the delegate layers, stages 3 and 4
    window: int  # side of an attention window, in tokens
    image_size: int  # side of the input, in pixels
    drop_path: float  # stochastic depth rate of the last layer

    def map_sizes(self, image_size: int) -> tuple[int, int, int, int]:
        """Side of each stage's feature map for an input of `image_size` pixels."""
        return tuple(image_size // stride for stride in (4, 8, 16, 32))  # type: ignore[return-value]


ARCHITECTURES = {
    "delegate_nano": Architecture(
        (24, 48, 96, 192), (2, 2, 2, 2), (1, 2, 4, 8), (2, 4), 4, 128, 0.05
    ),
    "delegate_tiny": Architecture(
        (96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24), (3, 6), 7, 224, 0.2
    ),
    "delegate_small": Architecture(
        (96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24), (3, 6), 7, 224, 0.3
    ),
    "delegate_base": Architecture(
        (128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32), (4, 8), 7, 224, 0.5
    ),
    "delegate_base_384": Architecture(
        (128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32), (4, 8), 12, 384, 0.5
    ),
    # Stages 1 and 2 are the backbone's; only their strides matter.
    "delegate_cnn": Architecture(
        (0, 0, 192, 384), (0, 0, 2, 2), (0, 0, 6, 12), (3, 6), 7, 224, 0.1
    ),
}

STAGE_KINDS = ("S", "D", "G")  # shifted window, deformable, delegate attention
VARIANTS = ("icaa17k", "spaq", "ava")
AVA_BINS = tuple(str(rating) for rating in range(1, 11))
DEFAULT_TARGETS = {"icaa17k": ("MOS", "color"), "spaq": ("Colorfulness",), "ava": AVA_BINS}


@dataclass(frozen=True)
class Option:
    """One keyword of `build_model`. `released` and `ours` are its values in the two recipes;
    `None` stands for the value that belongs to the network or the variant."""

    type: type
    released: Any
    ours: Any
    help: str
    choices: tuple[str, ...] = ()
    cnn_only: bool = False


OPTIONS: dict[str, Option] = {
    # Where the released code and the paper's text (or plain sense) differ: set by the recipe.
    "point_pooling": Option(
        str,
        "batch",
        "image",
        "interest points and gate: mean over the batch, each image's own, or the mean over the "
        "batch in training and its running average in evaluation",
        ("batch", "image", "running"),
    ),
    "color_point_range": Option(
        str,
        "free",
        "unit",
        "color points as they come, or through a sigmoid into (0, 1)",
        ("free", "unit"),
    ),
    "color_space_slope": Option(
        float,
        2.0,
        1.0,
        "starting slope of the color spaces, as a multiple of their number: at 2 "
        "neighbours touch, at 1 they overlap by half and their weights sum to one",
    ),
    "head_init": Option(
        str,
        "torch",
        "linear",
        "torch's default, or score heads that start as linear functions of the color points",
        ("torch", "linear"),
    ),
    "window_shift": Option(
        str,
        "ceil",
        "ceil",
        "shift of the windows: half a window rounded up, or down as in Swin",
        ("ceil", "floor"),
    ),
    "offset_damping": Option(
        float,
        0.25,
        0.25,
        "factor on offsets that point away from their interest point (1: eq. 2 as written)",
    ),
    "weight_init": Option(
        str,
        "torch",
        "trunc_normal",
        "torch's default, or Swin's truncated normal of std 0.02",
        ("torch", "trunc_normal"),
    ),
    # The same in both recipes.
    "image_size": Option(int, None, None, "side of the input image in pixels"),
    "drop_path": Option(float, None, None, "stochastic depth rate of the last layer"),
    "gate": Option(bool, None, None, "Net_g, eq. 3 (default: yes, but not for variant spaq)"),
    "offsets": Option(bool, True, True, "Net_o"),
    "stages": Option(
        str,
        "SSGG",
        "SSGG",
        "attention of every second layer, a letter a stage: S shifted window, D deformable with "
        "a regular grid, G delegate (Table 5)",
    ),
    "interest_kernel": Option(
        int, 1, 1, "kernel of Net_i and Net_g, 1 to 10: larger ones give fewer points (figure 6)"
    ),
    "gate_gradient": Option(
        str,
        "none",
        "none",
        "gradient of the 0-or-1 gate: as it is (none), or that of a soft sigmoid",
        ("none", "straight_through"),
    ),
    "aspect": Option(
        str,
        "stretch",
        "stretch",
        "photographs are stretched to the square input, or keep their proportions within it",
        ("stretch", "pad"),
    ),
    "color_spaces": Option(int, 6, 6, "κ; 0: the heads read the pooled features"),
    "num_color_points": Option(int, 36, 36, "color points"),
    "backbone": Option(
        str, "resnet50", "resnet50", "a torchvision CNN or efficientnet_lite0", cnn_only=True
    ),
    "backbone_weights": Option(
        str, "none", "none", "imagenet, none or the path of a state dict", cnn_only=True
    ),
    "backbone_norm": Option(
        str,
        "frozen",
        "frozen",
        "batch norm of the backbone: running statistics kept as they are, or those of the batch",
        ("frozen", "batch"),
        cnn_only=True,
    ),
}
RECIPES = ("released", "ours")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that rebuilds a network: its name, variant, recipe, targets and every option."""

    name: str
    variant: str
    recipe: str
    targets: tuple[str, ...]
    point_pooling: str
    color_point_range: str
    color_space_slope: float
    head_init: str
    window_shift: str
    offset_damping: float
    weight_init: str
    image_size: int
    drop_path: float
    gate: bool
    offsets: bool
    stages: str
    interest_kernel: int
    gate_gradient: str
    aspect: str
    color_spaces: int
    num_color_points: int
    backbone: str | None
    backbone_weights: str | None
    backbone_norm: str | None

    @property
    def architecture(self) -> Architecture:
        """The sizes that belong to `name`."""
        return ARCHITECTURES[self.name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` takes it back."""
        return {**dataclasses.asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuild from `to_dict`'s output; unknown or missing keys raise `UserError`."""
        values = dict(values)
        head = {key: values.pop(key, None) for key in ("name", "variant", "recipe", "targets")}
        absent = [key for key, value in head.items() if value is None]
        if absent:
            raise UserError(f"model configuration lacks {', '.join(absent)}")
        given = {key: value for key, value in values.items() if value is not None}
        return resolve(head["name"], head["variant"], head["recipe"], head["targets"], given)


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise `UserError`, with the nearest known names, unless `name` is one of `known`."""
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown {kind} {name!r}: {hint}known are {', '.join(known)}")


def resolve(
    name: str,
    variant: str,
    recipe: str,
    targets: Iterable[str] | None,
    options: Mapping[str, Any],
) -> ModelConfig:
    """Fill in recipe and defaults, and check every value. Raises `UserError`."""
    check_known("model", name, ARCHITECTURES)
    check_known("variant", variant, VARIANTS)
    check_known("recipe", recipe, RECIPES)
    is_cnn = name == "delegate_cnn"
    for key, value in options.items():
        check_known("model option", key, OPTIONS)
        if OPTIONS[key].cnn_only and not is_cnn:
            raise UserError(f"model option {key!r} belongs to delegate_cnn, not to {name}")
        _check_value(key, value)

    architecture = ARCHITECTURES[name]
    values = {
        key: getattr(option, recipe) if is_cnn or not option.cnn_only else None
        for key, option in OPTIONS.items()
    }
    values["image_size"] = architecture.image_size
    values["drop_path"] = architecture.drop_path
    values["gate"] = variant != "spaq"
    values["color_spaces"] = 0 if variant == "ava" else values["color_spaces"]
    values.update(options)
    for key in ("color_space_slope", "offset_damping", "drop_path"):
        values[key] = float(values[key])
    config = ModelConfig(name, variant, recipe, _targets(variant, targets), **values)
    _check_ranges(config)
    return config


def _targets(variant: str, targets: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(targets, str):
        raise UserError(f"targets must be a list of names, not the text {targets!r}")
    targets = DEFAULT_TARGETS[variant] if targets is None else tuple(targets)
    if not targets or len(set(targets)) != len(targets):
        raise UserError(f"targets must be different names, at least one: {targets}")
    if variant == "ava" and targets != AVA_BINS:
        raise UserError("variant ava predicts the ten rating bins: leave targets out")
    return targets


def _check_value(key: str, value: Any) -> None:
    option = OPTIONS[key]
    allowed = (int, float) if option.type is float else option.type
    if not isinstance(value, allowed) or (isinstance(value, bool) and option.type is not bool):
        raise UserError(f"model option {key} must be of type {option.type.__name__}: {value!r}")
    if option.choices and value not in option.choices:
        raise UserError(f"model option {key} must be one of {option.choices}: {value!r}")


def _check_ranges(config: ModelConfig) -> None:
    """Raise `UserError` for values that no network can be built from."""
    if not 0 <= config.drop_path < 1:
        raise UserError(f"drop_path must lie in [0, 1): {config.drop_path}")
    if len(config.stages) != 4 or set(config.stages) - set(STAGE_KINDS):
        raise UserError(
            f"stages must be four letters of {', '.join(STAGE_KINDS)}, as in 'SSGG': "
            f"{config.stages!r}"
        )
    if config.name == "delegate_cnn" and config.stages[:2] != "SS":
        raise UserError(
            f"stages {config.stages!r}: stages 1 and 2 of delegate_cnn are its backbone's, so its "
            "first two letters are SS"
        )
    if not 1 <= config.interest_kernel <= 10:
        raise UserError(f"interest_kernel must lie in 1 to 10: {config.interest_kernel}")
    if config.color_spaces < 0 or config.num_color_points < 1:
        raise UserError("color_spaces must be 0 or more and num_color_points 1 or more")
    if config.variant == "ava" and config.color_spaces:
        raise UserError("variant ava has no color spaces: its head reads the pooled features")
    if config.color_space_slope <= 0:
        raise UserError(f"color_space_slope must be above 0: {config.color_space_slope}")
    unit = 32 * config.architecture.window
    if config.image_size < unit or config.image_size % unit:
        raise UserError(
            f"image_size {config.image_size} does not fit {config.name}: its windows of "
            f"{config.architecture.window} tokens need a multiple of {unit}"
        )
