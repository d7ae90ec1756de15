"""A picture file becomes the pixels that a person would see."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fluxbooth.config.specs import PictureSpec
from fluxbooth.dataset.buckets import cover
from fluxbooth.dataset.pictures import (
    UnreadablePictureError,
    cut_mask,
    cut_to_bucket,
    mask_in,
    open_upright,
    picture_files,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def close(pixel: object, colour: object, tolerance: float) -> bool:
    return bool(np.allclose(np.asarray(pixel), np.asarray(colour), atol=tolerance))


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def left_red_right_blue() -> Image.Image:
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(BLUE, (20, 0, 40, 20))
    return picture


def test_a_phones_sideways_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn a quarter to the right to see it upright"
    upright = open_upright(encoded(left_red_right_blue(), exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == RED
    assert upright.getpixel((10, 35)) == BLUE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_white(mode: str) -> None:
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    flat = open_upright(encoded(picture.convert(mode)))
    assert flat.mode == "RGB"
    assert flat.getpixel((6, 4)) == WHITE
    assert flat.getpixel((1, 4)) == (0, 0, 0)


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    flat = open_upright(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert flat.getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 32896, 65535]], dtype=np.uint16)  # black, middle, white
    flat = open_upright(encoded(Image.fromarray(values)))
    assert [flat.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), WHITE]


@pytest.mark.parametrize(
    ("picture", "file_format"),
    [
        (Image.new("L", (4, 4), 200), "PNG"),
        (Image.new("1", (4, 4), 1), "PNG"),
        (Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4), "PNG"),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"),
        (Image.new("RGB", (4, 4), RED), "BMP"),
        (Image.new("RGB", (4, 4), RED), "WEBP"),
    ],
    ids=["grey", "one bit", "palette", "CMYK", "BMP", "WEBP"],
)
def test_every_kind_of_file_comes_out_as_rgb(picture: Image.Image, file_format: str) -> None:
    opened = open_upright(encoded(picture, file_format))
    expected = picture.convert("RGB").getpixel((1, 1))
    assert opened.mode == "RGB"
    assert close(opened.getpixel((1, 1)), expected, 12)  # lossy formats


def test_a_picture_with_an_srgb_profile_keeps_its_colours() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    opened = open_upright(encoded(Image.new("RGB", (4, 4), (10, 200, 30)), icc_profile=profile))
    assert close(opened.getpixel((1, 1)), (10, 200, 30), 1)


def test_a_picture_in_another_colour_space_is_converted() -> None:
    """A profile whose red primary is sRGB's blue and the other way round: its red is what a screen shows as blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp1").replace(b"bXYZ", b"rXYZ").replace(b"tmp1", b"bXYZ")
    opened = open_upright(encoded(Image.new("RGB", (4, 4), RED), icc_profile=swapped))
    assert close(opened.getpixel((1, 1)), BLUE, 2)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_damaged_profile_is_left_out_as_every_viewer_does(file_format: str) -> None:
    opened = open_upright(encoded(Image.new("RGB", (16, 16), (10, 200, 30)), file_format, icc_profile=b"no profile"))
    assert close(opened.getpixel((8, 8)), (10, 200, 30), 4)


def test_damaged_exif_data_make_an_unreadable_picture_and_no_traceback() -> None:
    with pytest.raises(UnreadablePictureError):
        open_upright(encoded(Image.new("RGB", (4, 4)), exif=b"Exif\x00\x00garbage"))


def test_a_profile_of_another_kind_of_picture_is_left_out_as_every_viewer_does() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    opened = open_upright(encoded(Image.new("RGB", (4, 4), (10, 200, 30)), icc_profile=lab))
    assert opened.getpixel((1, 1)) == (10, 200, 30)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>Access denied</html>",
        encoded(left_red_right_blue())[:60],
        encoded(left_red_right_blue(), "JPEG")[:200],
    ],
    ids=["empty", "error page", "cut PNG", "cut JPEG"],
)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadablePictureError):
        open_upright(data)


def test_only_picture_files_right_inside_the_folder_are_listed(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.png", "a.caption"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    assert [file.name for file in picture_files(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]


def test_a_cut_shows_the_centre_and_a_flip_its_mirror_image() -> None:
    placement = cover((40, 20), (16, 16))
    cut = cut_to_bucket(left_red_right_blue(), placement, PictureSpec())
    assert cut.shape == (16, 16, 3)
    assert tuple(cut[8, 0]) == RED
    assert tuple(cut[8, 15]) == BLUE
    assert np.array_equal(cut_to_bucket(left_red_right_blue(), placement, PictureSpec(), flipped=True), cut[:, ::-1])


def test_a_variant_is_cut_from_anywhere_and_always_from_the_same_place() -> None:
    placement = cover((40, 20), (16, 16))
    spec = PictureSpec(random_crop=True, variants=8)
    cuts = [cut_to_bucket(left_red_right_blue(), placement, spec, variant=f"x/{n}") for n in range(20)]
    again = [cut_to_bucket(left_red_right_blue(), placement, spec, variant=f"x/{n}") for n in range(20)]
    assert all(np.array_equal(first, second) for first, second in zip(cuts, again, strict=True))
    shares = {float((cut[8, :, 0] > 128).mean()) for cut in cuts}
    assert len(shares) > 5, "some show more of the red half, some less"
    assert all(cut.shape == (16, 16, 3) for cut in cuts)


def test_a_variant_has_colours_of_its_own_that_stay_near() -> None:
    placement, spec = cover((40, 20), (16, 16)), PictureSpec(color_aug=True, variants=8)
    plain = cut_to_bucket(left_red_right_blue(), placement, PictureSpec()).astype(int)
    cuts = [cut_to_bucket(left_red_right_blue(), placement, spec, variant=f"x/{n}").astype(int) for n in range(8)]
    assert len({cut.tobytes() for cut in cuts}) == 8
    assert all(np.abs(cut - plain).max() < 90 for cut in cuts)


@pytest.mark.parametrize(("name", "sharp"), [("nearest", True), ("box", True), ("lanczos", False), ("cubic", False)])
def test_a_picture_is_resized_as_it_was_asked(name: str, sharp: bool) -> None:
    """Enlarged four times, only the two that copy pixels leave two colours alone."""
    small = left_red_right_blue().resize((4, 2), Image.Resampling.NEAREST)
    cut = cut_to_bucket(small, cover((4, 2), (16, 8)), PictureSpec(interpolation=name))
    assert (len(np.unique(cut.reshape(-1, 3), axis=0)) == 2) == sharp


def half_transparent() -> Image.Image:
    picture = Image.new("RGBA", (32, 32), (*RED, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 16, 32))
    return picture


def test_what_is_transparent_does_not_count_where_alpha_is_the_mask() -> None:
    mask = mask_in(encoded(half_transparent()), of_alpha=True)
    values = cut_mask(mask, cover((32, 32), (32, 32)), PictureSpec())
    assert values.shape == (4, 4)
    assert values.dtype == np.float32
    assert (values[:, :2] == 0).all()
    assert (values[:, 2:] == 1).all()
    assert np.array_equal(cut_mask(mask, cover((32, 32), (32, 32)), PictureSpec(), flipped=True), values[:, ::-1])


def test_all_of_a_picture_without_transparency_counts() -> None:
    assert mask_in(encoded(left_red_right_blue()), of_alpha=True).getextrema() == (255, 255)


def test_a_masks_own_file_counts_by_its_brightness() -> None:
    mask = mask_in(encoded(Image.new("RGB", (8, 8), (51, 51, 51))), of_alpha=False)
    assert cut_mask(mask, cover((8, 8), (8, 8)), PictureSpec()) == pytest.approx(0.2)
