"""Loading, refusing, resizing and saving weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from errors import UserError
from models import (
    ColorAesthetics,
    build_model,
    load_model,
    load_weights,
    save_model,
    to_released_state_dict,
)
from models.checkpoint_files import read_state_dict
from models.weights import resize_position_table


def nano(seed: int = 0, **options: object) -> ColorAesthetics:
    torch.manual_seed(seed)
    return build_model("delegate_nano", **options)


def same(a: ColorAesthetics, b: ColorAesthetics, *, but: tuple[str, ...] = ()) -> bool:
    other = b.state_dict()
    return all(
        torch.equal(value, other[name])
        for name, value in a.state_dict().items()
        if not name.startswith(but)
    )


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_layouts(tmp_path: Path, wrap: str | None, prefix: str) -> None:
    source = nano(1)
    state = {prefix + name: value for name, value in to_released_state_dict(source).items()}
    path = tmp_path / "weights.pth"
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    model = nano(2)
    report = load_weights(model, path)
    assert same(source, model)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])
    assert sorted(report.loaded) == sorted(model.state_dict())


def test_tied_name_is_exported_and_read_back() -> None:
    source, model = nano(1), nano(2)
    source.head.color_spaces.slopes.data.uniform_(1, 3)
    state = to_released_state_dict(source, tied=True)
    del state["hist_feature.widths"]
    load_weights(model, state)
    assert torch.equal(model.head.color_spaces.slopes, source.head.color_spaces.slopes)


def test_imagenet_body_leaves_the_new_layers() -> None:
    """DAT's checkpoint: under "model", no Net_i, Net_g, color space or score head; 1000 classes."""
    source, model, fresh = nano(1), nano(2), nano(2)
    new = ("ref_point", "ref_gate", "hst_head", "hist_feature", "class_head", "cls_head")
    state = {
        name: value
        for name, value in to_released_state_dict(source).items()
        if not any(part in name for part in new)
    }
    state["cls_head.weight"], state["cls_head.bias"] = torch.randn(1000, 192), torch.randn(1000)
    report = load_weights(model, state)
    assert all(part not in name for name in report.loaded for part in ("interest", "gate", "head."))
    assert any("interest_net" in name for name in report.missing)
    assert report.unexpected == ["cls_head.weight", "cls_head.bias"]
    assert torch.equal(model.head.color_points.weight, fresh.head.color_points.weight)
    assert torch.equal(model.norm.weight, source.norm.weight)
    assert "not used" in str(report)


def test_ava_body_feeds_the_other_variants() -> None:
    source, model = nano(1, variant="ava"), nano(2, variant="spaq")
    report = load_weights(model, to_released_state_dict(source))
    assert any(name.startswith("head.") for name in report.missing)
    assert any("gate_net" in name or "ref_gate" in name for name in report.unexpected)
    assert torch.equal(model.stages[3].blocks[1].attention.query.weight,
                       source.stages[3].blocks[1].attention.query.weight)  # fmt: skip


def test_score_heads_are_matched_by_target(tmp_path: Path) -> None:
    both = nano(1)
    color_only = nano(2, targets=("color",))
    load_weights(color_only, to_released_state_dict(both))
    assert torch.equal(color_only.head.scores[0].weight, both.head.scores[1].weight)

    save_model(color_only, tmp_path)
    back = nano(3, targets=("beauty", "color"))
    report = load_weights(back, tmp_path)
    assert torch.equal(back.head.scores[1].weight, color_only.head.scores[0].weight)
    assert [n for n in report.missing if n.startswith("head.scores")] == [
        "head.scores.0.weight",
        "head.scores.0.bias",
    ]


def test_another_size_of_network_is_refused_untouched() -> None:
    model, before = nano(1), nano(1)
    other = build_model("delegate_cnn", backbone="efficientnet_lite0")
    for state in (to_released_state_dict(build_model("delegate_tiny")), other.state_dict()):
        with pytest.raises(UserError, match="another architecture than delegate_nano"):
            load_weights(model, state)
    assert same(before, model)


def test_a_hole_in_the_body_is_refused_unless_allowed() -> None:
    source, model = nano(1), nano(2)
    state = to_released_state_dict(source)
    del state["stages.2.attns.1.proj_q.weight"]
    with pytest.raises(
        UserError, match=r"lacks 1 tensors .*stages\.2\.blocks\.1\.attention\.query"
    ):
        load_weights(model, state)
    report = load_weights(model, state, allow_partial=True)
    assert report.missing == ["stages.2.blocks.1.attention.query.weight"]


def test_frozen_parts_that_are_not_one_are_refused() -> None:
    state = to_released_state_dict(nano(1))
    state["hist_feature.bin_widths_conv.bias"] = torch.full((216,), 2.0)
    with pytest.raises(UserError, match="must be 1 throughout"):
        load_weights(nano(2), state)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code in the pickle was run",))


def test_files_that_are_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = nano().state_dict()
    files = {
        "page.pth": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "empty.pth": b"",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "code.pth": pickle.dumps({"a": _Code()}),
        "noise.pth": b"\x00\x01\x02" * 100,
        "noise.safetensors": b"\x00\x01\x02" * 100,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save(state, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    messages = {
        "page.pth": "is a web page",
        "empty.pth": "is empty",
        "pointer.pth": "Git LFS pointer",
        "code.pth": "more than tensors",
        "noise.pth": "truncated or no torch|more than tensors",
        "noise.safetensors": "no safetensors file",
        "cut.pth": "truncated",
        "list.pth": "holds a list",
        "absent.pth": "no weights at",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            load_weights(nano(), tmp_path / name)
    assert "was run" not in capsys.readouterr().out


def test_position_tables_are_resized_for_another_image_size() -> None:
    small, large = nano(1), nano(2, image_size=256)
    report = load_weights(large, small.state_dict())
    assert report.resized == [
        "stages.2.blocks.1.attention.position_bias_table",
        "stages.3.blocks.1.attention.position_bias_table",
    ]
    assert set(report.resized) <= set(report.loaded)
    assert report.missing == []


def test_resized_tables_pass_through_the_old_values() -> None:
    """At twice the resolution, every second entry is an old one; heads do not mix."""
    delegate = torch.randn(2, 15, 15)
    resized = resize_position_table(delegate, torch.zeros(2, 29, 29))
    torch.testing.assert_close(resized[:, ::2, ::2], delegate)
    window = torch.randn(7**2, 3)
    resized = resize_position_table(window, torch.zeros(13**2, 3)).view(13, 13, 3)
    torch.testing.assert_close(resized[::2, ::2], window.view(7, 7, 3))


def test_tables_that_cannot_be_resized_come_back_unchanged() -> None:
    for table, like in [
        (torch.zeros(2, 15, 15), torch.zeros(3, 31, 31)),
        (torch.zeros(49, 3), torch.zeros(169, 4)),
        (torch.zeros(48, 3), torch.zeros(169, 3)),
        (torch.zeros(49, 3), torch.zeros(3, 7, 7)),
    ]:
        assert resize_position_table(table, like) is table


def test_save_and_load_model(tmp_path: Path) -> None:
    model = nano(1, recipe="ours", targets=("beauty",), point_pooling="batch")
    save_model(model, tmp_path, {"dataset": "csv", "unit_range": [1, 7]})
    back = load_model(tmp_path)
    assert same(model, back)
    assert back.config == model.config
    assert back.extra == {"dataset": "csv", "unit_range": [1, 7]}
    assert not back.training
    state, metadata = read_state_dict(tmp_path)
    assert metadata == model.config.to_dict()
    assert state.keys() == model.state_dict().keys()


def test_load_model_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_model(tmp_path)
    for content in ("{", "{}", '{"model": {"name": "delegate_nano"}}', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="configuration"):
            load_model(tmp_path)
    config = nano().config.to_dict() | {"point_poling": "image"}
    (tmp_path / "config.json").write_text(json.dumps({"model": config}))
    with pytest.raises(UserError, match="point_poling"):
        load_model(tmp_path)
