"""Networks for image color aesthetics assessment.

>>> from models import build_model
>>> model = build_model("delegate_nano", targets=("MOS", "color"), point_pooling="image")

>>> from models import load_model
>>> load_model("runs/x/best").score("photo.jpg")  # {target: score on the label's own scale}
"""

from models.color_spaces import dead_color_points
from models.delegate_transformer import ColorAesthetics, Explanation
from models.factory import build_model, list_models, parameter_groups
from models.flops import count_flops
from models.label_scale import LabelScale
from models.loading import load_model
from models.options import OPTIONS, RECIPES, VARIANTS, ModelConfig, Option
from models.released import to_released_state_dict
from models.scoring_api import set_point_pooling, without_company
from models.weights import WeightsReport, load_weights, save_model

__all__ = [
    "OPTIONS",
    "RECIPES",
    "VARIANTS",
    "ColorAesthetics",
    "Explanation",
    "LabelScale",
    "ModelConfig",
    "Option",
    "WeightsReport",
    "build_model",
    "count_flops",
    "dead_color_points",
    "list_models",
    "load_model",
    "load_weights",
    "parameter_groups",
    "save_model",
    "set_point_pooling",
    "to_released_state_dict",
    "without_company",
]
