"""Picture files to the RGB pixels that a person would see: upright, on white, in sRGB, 8 bits."""

from __future__ import annotations

import io
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageEnhance, ImageOps

from fluxbooth.config.specs import PictureSpec
from fluxbooth.dataset.buckets import Placement

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

# kohya's names (library/utils.get_cv2_interpolation).
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
}
_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class UnreadablePictureError(Exception):
    """A file that cannot be read as a picture; the message says why."""


@dataclass(frozen=True)
class Decoded:
    """A picture file's picture, and what was done to it."""

    picture: Image.Image
    """RGB, upright, in sRGB."""
    turned: bool
    """Whether its EXIF orientation turned it."""
    transparent: bool
    """Whether something shows through it, which was laid over `BACKGROUND`."""
    frames: int
    """1, and more for an animation, whose first was taken."""


def picture_files(folder: Path) -> list[Path]:
    """List the picture files right inside `folder`, sorted by name; hidden files are left out."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file() and not file.name.startswith(".")
    )


def open_upright(data: bytes) -> Image.Image:
    """Decode a picture file's bytes to an RGB picture, turned as its EXIF orientation says.

    Transparent pixels are laid over `BACKGROUND`, an embedded colour profile is converted to sRGB, and 16-bit grey is
    brought down to 8 bits (not clipped). Of an animation the first frame is taken.

    Raises:
        UnreadablePictureError: for bytes that are no picture, or one cut short.
    """
    return _flattened(_in_srgb(_in_eight_bits(_upright(data))))


def decode(data: bytes) -> Decoded:
    """Decode a picture file's bytes as `open_upright` does, and say what that took.

    Raises:
        UnreadablePictureError: for bytes that are no picture, or one cut short.
    """
    stored = _stored(data)
    upright = _in_srgb(_in_eight_bits(_turned_upright(stored)))
    alpha = upright.convert("RGBA").getchannel("A") if _may_be_transparent(upright) else None
    # A telephone's .jpg holds a second picture for depth or motion, in the form "MPO"; it is no animation.
    frames = 1 if stored.format == "MPO" else getattr(stored, "n_frames", 1)
    return Decoded(
        _flattened(upright),
        turned=stored.getexif().get(ExifTags.Base.Orientation) in range(2, 9),
        transparent=alpha is not None and alpha.getextrema()[0] != 255,
        frames=frames,
    )


def cut_out_of(data: bytes) -> Image.Image | None:
    """Return the subject of a picture with transparent surroundings, cropped to it: RGBA, upright.

    None where every corner of the picture shows something: then it has no surroundings that are transparent.

    Raises:
        UnreadablePictureError: for bytes that are no picture, or one cut short.
    """
    picture = _in_eight_bits(_upright(data))
    if not _may_be_transparent(picture):
        return None
    layers = _in_srgb(picture.convert("RGBA"))
    corners = [(x, y) for x in (0, layers.width - 1) for y in (0, layers.height - 1)]
    alpha = layers.getchannel("A")
    subject = alpha.getbbox()
    if subject is None or all(alpha.getpixel(corner) for corner in corners):
        return None
    return layers.crop(subject)


def cut_to_bucket(
    picture: Image.Image, placement: Placement, spec: PictureSpec, flipped: bool = False, variant: str = ""
) -> np.ndarray:
    """Resize and crop an RGB picture into its bucket: (height, width, 3) uint8.

    Without another wish it is averaged over areas where it shrinks and by Lanczos where it grows, as kohya chooses
    (library/utils.resize_image).

    Args:
        variant: whose crop and colours, where they change: the same words give the same picture.
    """
    cut = _cut(picture, placement, spec, variant)
    if spec.color_aug:
        cut = _other_colours(cut, random.Random(f"{variant}/colours"))
    return np.asarray(ImageOps.mirror(cut) if flipped else cut)


def cut_mask(
    mask: Image.Image, placement: Placement, spec: PictureSpec, flipped: bool = False, variant: str = ""
) -> np.ndarray:
    """Resize and crop a mask ("L") as its picture is: (height / 8, width / 8) float32, 0 to 1, one value a latent."""
    cut = _cut(mask, placement, spec, variant)
    small = cut.resize((cut.width // 8, cut.height // 8), Image.Resampling.BOX)
    values = np.asarray(ImageOps.mirror(small) if flipped else small).astype(np.float32) / 255
    return np.asarray(values)


def mask_in(data: bytes, of_alpha: bool) -> Image.Image:
    """Decode a mask: how opaque a picture is (all of it where it has no alpha), or how bright a mask's file is ("L").

    Raises:
        UnreadablePictureError: for bytes that are no picture, or one cut short.
    """
    if not of_alpha:
        return open_upright(data).convert("L")
    picture = _upright(data)
    if not _may_be_transparent(picture):
        return Image.new("L", picture.size, 255)
    return picture.convert("RGBA").getchannel("A")


def _cut(picture: Image.Image, placement: Placement, spec: PictureSpec, variant: str) -> Image.Image:
    shrinks = placement.resized[0] <= picture.width and placement.resized[1] <= picture.height
    chosen = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    resized = picture.resize(placement.resized, _FILTERS.get(spec.interpolation, chosen))
    left, top, right, bottom = placement.crop
    if spec.random_crop:
        randomness = random.Random(f"{variant}/crop")
        width, height = right - left, bottom - top
        left = randomness.randint(0, placement.resized[0] - width)
        top = randomness.randint(0, placement.resized[1] - height)
        right, bottom = left + width, top + height
    return resized.crop((left, top, right, bottom))


def _other_colours(picture: Image.Image, randomness: random.Random) -> Image.Image:
    """Shift hue by up to 11 degrees, change saturation by up to a seventh and brightness by up to a tenth."""
    hue, saturation, value = picture.convert("HSV").split()
    turn = randomness.randint(-8, 8)  # of 256
    turned = Image.merge("HSV", (hue.point(lambda old: (old + turn) % 256), saturation, value)).convert("RGB")
    turned = ImageEnhance.Color(turned).enhance(randomness.uniform(0.85, 1.15))
    return ImageEnhance.Brightness(turned).enhance(randomness.uniform(0.9, 1.1))


def _upright(data: bytes) -> Image.Image:
    return _turned_upright(_stored(data))


def _stored(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():  # of many pixels `fluxbooth check` warns in its own words, and by name
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePictureError(str(error).split("<_io")[0].strip()) from error


def _turned_upright(stored: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(stored)
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadablePictureError(str(error).split("<_io")[0].strip()) from error


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode not in _SIXTEEN_BIT_MODES:
        return picture
    values = np.asarray(picture).astype(np.float32)
    # PNG's 16-bit grey opens as "I" (32 bits) or "I;16"; its white is 65535 either way.
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))


def _in_srgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return picture
    wanted = "RGBA" if picture.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode=wanted)
    except (ImageCms.PyCMSError, OSError):
        # A damaged profile, or one of another colour space than the pixels: every viewer shows such a file without it.
        return picture
    assert converted is not None, "profileToProfile returns a picture unless it works in place"
    return converted


def _flattened(picture: Image.Image) -> Image.Image:
    if _may_be_transparent(picture):
        layers = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, (*BACKGROUND, 255)), layers).convert("RGB")
    return picture.convert("RGB")


def _may_be_transparent(picture: Image.Image) -> bool:
    return picture.mode in _TRANSPARENT_MODES or "transparency" in picture.info
