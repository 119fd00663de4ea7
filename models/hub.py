"""Weights folders in the Hugging Face Hub's layout: `config.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download

from errors import UserError

if TYPE_CHECKING:
    from models.delegate_transformer import ColorAesthetics


class HubFolders(
    PyTorchModelHubMixin,
    library_name="pytorch",
    tags=["image-aesthetics", "color"],
    pipeline_tag="image-classification",
):
    """`from_pretrained(folder or repository)`, `save_pretrained(folder)`, `push_to_hub(name)`.

    The files are those of `save_model` and `load_model` (imported late: they import the networks,
    which inherit from this). Only `from_pretrained` with a repository's name downloads anything.
    """

    def _save_pretrained(self: ColorAesthetics, save_directory: Path) -> None:
        from models.weights import save_model

        save_model(self, save_directory, self.extra)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: Any,  # what the mixin read from config.json; load_model reads and checks it itself
    ) -> ColorAesthetics:
        from models.loading import load_model

        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=["config.json", "model.safetensors"],
                )
            )
        model = load_model(folder)
        if not isinstance(model, cls):
            raise UserError(f"{model_id} holds a {type(model).__name__}, not a {cls.__name__}")
        return model
