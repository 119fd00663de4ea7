"""Weights folders in the Hub's layout, offline, and torch.hub on this repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from huggingface_hub import HfApi, PyTorchModelHubMixin
from scorers import EXTRA, lively_nano, picture, save

from errors import UserError
from models import ColorAesthetics, build_model, load_model, save_model
from models.delegate_cnn import DelegateCNN
from models.delegate_transformer import DelegateTransformer


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_save_pretrained_and_from_pretrained(tmp_path: Path) -> None:
    model = lively_nano(point_pooling="image")
    model.save_pretrained(tmp_path / "a")
    assert isinstance(model, PyTorchModelHubMixin)
    back = DelegateTransformer.from_pretrained(tmp_path / "a")
    assert back.config == model.config
    assert back.extra == EXTRA
    assert not back.training
    assert back.score(picture(0)) == model.score(picture(0))
    assert load_model(tmp_path / "a").score(picture(0)) == model.score(picture(0))
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}


def test_checkpoints_of_training_are_read(tmp_path: Path) -> None:
    save(lively_nano(), tmp_path)
    assert ColorAesthetics.from_pretrained(str(tmp_path)).extra == EXTRA
    with pytest.raises(UserError, match="holds a DelegateTransformer, not a DelegateCNN"):
        DelegateCNN.from_pretrained(tmp_path)


def test_a_cnn_too(tmp_path: Path) -> None:
    model = build_model("delegate_cnn", backbone="efficientnet_lite0", targets=("beauty",)).eval()
    save_model(model, tmp_path, {"unit_range": [1, 7]})
    back = DelegateCNN.from_pretrained(tmp_path)
    assert back.score(picture(0)) == pytest.approx(load_model(tmp_path).score(picture(0)))


def test_push_to_hub_sends_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Created:
        repo_id = "somebody/model"

    def create(api: HfApi, **options: object) -> Created:
        assert options["repo_id"] == "somebody/model"
        return Created()

    def upload(api: HfApi, *, folder_path: Path, repo_id: str, **_: object) -> str:
        assert repo_id == "somebody/model"
        shutil.copytree(folder_path, tmp_path / "pushed")
        return "the commit"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = lively_nano()
    assert model.push_to_hub("somebody/model") == "the commit"
    pushed = ColorAesthetics.from_pretrained(tmp_path / "pushed")
    assert pushed.score(picture(1)) == model.score(picture(1))


def test_a_name_on_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(lively_nano(), tmp_path / "cached")
    calls = []

    def download(repo_id: str, **options: object) -> str:
        calls.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(tmp_path / "cached")

    def config(**options: object) -> str:
        return str(tmp_path / "cached" / options["filename"])

    monkeypatch.setattr("models.hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", config)
    model = ColorAesthetics.from_pretrained("somebody/model", revision="v1")
    assert calls == [("somebody/model", "v1", ["config.json", "model.safetensors"])]
    assert model.extra == EXTRA


def test_torch_hub_on_a_local_copy(tmp_path: Path) -> None:
    model = lively_nano()
    save(model, tmp_path)
    loaded = torch.hub.load(str(ROOT), "load_model", str(tmp_path), source="local")
    assert loaded.score(picture(2)) == model.score(picture(2))
