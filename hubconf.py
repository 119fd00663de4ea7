"""Entry points for torch.hub, from a copy of this repository on disk:

torch.hub.load("path/to/this/folder", "load_model", "runs/x/best", source="local")
torch.hub.load("path/to/this/folder", "build_model", "delegate_base", source="local")
"""

from models import build_model, list_models, load_model

__all__ = ["build_model", "list_models", "load_model"]
dependencies = ["torch", "torchvision", "safetensors", "huggingface_hub", "PIL"]
