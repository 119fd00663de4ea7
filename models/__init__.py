"""Networks for image color aesthetics assessment.

>>> from models import build_model
>>> model = build_model("delegate_nano", targets=("MOS", "color"), point_pooling="image")
"""

from models.color_spaces import dead_color_points
from models.delegate_transformer import ColorAesthetics, Explanation
from models.factory import build_model, list_models, load_model, parameter_groups
from models.options import OPTIONS, RECIPES, VARIANTS, ModelConfig, Option
from models.released import to_released_state_dict
from models.weights import WeightsReport, load_weights, save_model

__all__ = [
    "OPTIONS",
    "RECIPES",
    "VARIANTS",
    "ColorAesthetics",
    "Explanation",
    "ModelConfig",
    "Option",
    "WeightsReport",
    "build_model",
    "dead_color_points",
    "list_models",
    "load_model",
    "load_weights",
    "parameter_groups",
    "save_model",
    "to_released_state_dict",
]
