"""Every kind of image a user may have becomes RGB; every file that is none is a clear error."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg_bytes, photo, png_bytes
from PIL import Image

from images import ImageError, content_hash, decode_error, open_rgb, parallel_map
from prepared import Transform

RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixels(path: Path) -> np.ndarray:
    image = open_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_rgb_jpeg_keeps_pillows_exact_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes())
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["with space.jpg", "1405@N07.jpg", "жёлтый 色.jpg", "no_suffix"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(jpeg_bytes())
    assert open_rgb(tmp_path / name).size == (48, 36)


def test_progressive_jpeg_equals_baseline(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    (tmp_path / "b.jpg").write_bytes(jpeg_bytes(progressive=True))
    assert (tmp_path / "a.jpg").read_bytes() != (tmp_path / "b.jpg").read_bytes()
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "b.jpg"))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette(tmp_path: Path, mode: str) -> None:
    image = photo().convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_alpha_is_composited_over_white(tmp_path: Path, alpha: int) -> None:
    Image.new("RGBA", (4, 4), (*RED, alpha)).save(tmp_path / "rgba.png")
    Image.new("LA", (4, 4), (0, alpha)).save(tmp_path / "la.png")
    rest = 255 - alpha
    np.testing.assert_allclose(pixels(tmp_path / "rgba.png")[0, 0], (255, rest, rest), atol=1)
    np.testing.assert_allclose(pixels(tmp_path / "la.png")[0, 0], rest, atol=1)


def test_transparent_palette_entry_and_color_key_become_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    Image.new("RGB", (4, 4), RED).save(tmp_path / "key.png", transparency=RED)
    assert pixels(tmp_path / "p.png")[0, :2].tolist() == [list(WHITE), [0, 0, 255]]
    assert pixels(tmp_path / "key.png")[0, 0].tolist() == list(WHITE)


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_allclose(pixels(tmp_path / "a.jpg")[8, 8], RED, atol=4)


def test_deep_pixels_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 200)[None].repeat(2, axis=0)
    expected = np.rint(ramp * 255)[..., None].repeat(3, axis=2)
    sixteen = np.rint(ramp * 65535).astype(np.uint16)
    files = {
        "16.png": Image.fromarray(sixteen),
        "32.tif": Image.fromarray(sixteen.astype(np.int32)),
        "float.tif": Image.fromarray(ramp.astype(np.float32)),
        "float255.tif": Image.fromarray((ramp * 255).astype(np.float32)),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
        np.testing.assert_allclose(pixels(tmp_path / name), expected, atol=1, err_msg=name)


def test_16_bit_color_png(tmp_path: Path) -> None:
    row = b"\0" + bytes.fromhex("ffff 8000 0000") * 3
    (tmp_path / "a.png").write_bytes(png_bytes(3, 2, 16, 2, row * 2))
    assert pixels(tmp_path / "a.png").tolist() == [[[255, 128, 0]] * 3] * 2


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    photo().save(tmp_path / "turned.png", exif=exif)
    expected = photo().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(pixels(tmp_path / "turned.png"), np.asarray(expected))
    exif[0x0112] = 1
    photo().save(tmp_path / "upright.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "upright.png"), np.asarray(photo()))


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(exif=b"Exif\0\0garbage that is no TIFF header"))
    assert open_rgb(tmp_path / "a.jpg").size == (48, 36)


def test_without_the_heic_package(tmp_path: Path) -> None:
    """Everything else is read, and a HEIC says what it takes."""
    photo().save(tmp_path / "a.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    code = "import sys; sys.modules['pillow_heif'] = None; import images, pathlib"
    for name in ("a.png", "phone.heic"):
        code += f"; print(images.decode_error(pathlib.Path('{tmp_path / name}')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    readable, heic = said.stdout.splitlines()
    assert readable == "None"
    assert "phone.heic: not an image" in heic
    assert "pip install pillow-heif" in heic


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == list(RED)


BAD = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"<!DOCTYPE html><html>not here</html>", "cannot identify"),
    "truncated.jpg": (jpeg_bytes()[: len(jpeg_bytes()) // 2], "truncated"),
    "bomb.png": (png_bytes(60_000, 60_000, 8, 2, b""), "179 million pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_errors_that_name_file_and_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        open_rgb(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert decode_error(tmp_path / name) == str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_rgb(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        content_hash(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="directory"):
        open_rgb(tmp_path)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "webp"])
def test_damaged_bytes_raise_nothing_but_image_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    photo().save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        damaged = whole.copy()
        damaged[rng.integers(len(whole), size=6)] = rng.integers(256, size=6)
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)].tobytes())
        outcomes.add(decode_error(path) is None)
    assert False in outcomes


def test_content_hash_is_of_all_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)  # several chunks
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert content_hash(tmp_path / "a") == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_parallel_map_keeps_the_order_and_runs_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=10)  # breaks unless two threads arrive together

    def double(number: int) -> int:
        meeting.wait()
        return 2 * number

    assert parallel_map(double, range(20), 2, "doubling") == [2 * i for i in range(20)]


def test_large_jpegs_alone_are_decoded_at_a_fraction(tmp_path: Path) -> None:
    big, small = photo(1, width=400, height=320), photo(1, width=100, height=80)
    big.save(tmp_path / "big.jpg", quality=90)
    big.save(tmp_path / "big.png")
    small.save(tmp_path / "small.jpg", quality=90)
    for name, size in (("big.jpg", (100, 80)), ("big.png", big.size), ("small.jpg", small.size)):
        assert open_rgb(tmp_path / name, least_side=64).size == size
    quarter = np.asarray(open_rgb(tmp_path / "big.jpg", least_side=64), dtype=int)
    averaged = np.asarray(big, dtype=int).reshape(80, 4, 100, 4, 3).mean(axis=(1, 3))
    assert np.abs(quarter - averaged).mean() < 2
    exact, draft = Transform(32).load(tmp_path / "big.jpg"), Transform(32, draft=True)
    assert draft.folder != Transform(32).folder
    difference = (draft.load(tmp_path / "big.jpg").int() - exact.int()).abs()
    assert 0 < difference.max() < 10
    assert difference.float().mean() < 1
