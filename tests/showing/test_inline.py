"""Pictures inside a page: whole where they are tiny, smaller where there are many."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from fluxbooth.showing.inline import as_address, fitted_addresses


def decoded(address: str) -> Image.Image:
    kind, data = address.split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def noise(side: int) -> Image.Image:
    return Image.effect_noise((side, side), 80).convert("RGB")


def test_a_tiny_picture_is_kept_bit_for_bit() -> None:
    picture = noise(96)
    assert decoded(as_address(picture)).tobytes() == picture.tobytes()


def test_a_large_one_is_made_smaller_in_its_shape() -> None:
    assert decoded(as_address(Image.new("RGB", (3000, 1500)), 512)).size == (512, 256)


def test_many_pictures_are_made_smaller_until_they_fit(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        noise(700).save(file)
    whole, side = fitted_addresses(files, 10_000_000)
    assert side == 640
    small, smaller_side = fitted_addresses(files, sum(map(len, whole.values())) // 3)
    assert smaller_side < 640
    assert sum(map(len, small.values())) <= sum(map(len, whole.values())) // 3
    assert max(decoded(small[files[0]]).size) == smaller_side


def test_a_file_that_is_no_picture_has_no_address(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"cut short")
    assert fitted_addresses([tmp_path / "a.png", tmp_path / "missing.png"], 100)[0] == {}


def test_a_picture_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(file)
    fitted_addresses([file], 10_000)
    Image.new("RGB", (8, 8), "blue").save(file)
    assert decoded(fitted_addresses([file], 10_000)[0][file]).getpixel((0, 0)) == (0, 0, 255)
