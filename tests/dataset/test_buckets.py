"""Buckets agree with kohya's to the pixel, and cover any picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.dataset.buckets import bucket_sizes, cover, place_in_buckets, place_without_upscaling

# kohya sd-scripts 48d368fa, model_util.make_bucket_resolutions((1024, 1024), 256, 1024, 64), wider half.
KOHYA_UP_TO_1024 = [(1024, height) for height in range(256, 1025, 64)]
# The same with a largest side of 2048: all buckets wider than 832.
KOHYA_UP_TO_2048_WIDE = [
    (896, 1152), (960, 1088), (1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1280, 768), (1344, 768),
    (1408, 704), (1472, 704), (1536, 640), (1600, 640), (1664, 576), (1728, 576), (1792, 576), (1856, 512), (1920, 512),
    (1984, 512), (2048, 256), (2048, 320), (2048, 384), (2048, 448), (2048, 512),
]  # fmt: skip


def test_the_list_of_buckets_is_kohyas() -> None:
    sizes = bucket_sizes(1024 * 1024, 256, 1024, 64)
    assert len(sizes) == 25
    assert [size for size in sizes if size[0] == 1024] == KOHYA_UP_TO_1024
    wide = bucket_sizes(1024 * 1024, 256, 2048, 64)
    assert len(wide) == 41
    assert [size for size in wide if size[0] > 832] == KOHYA_UP_TO_2048_WIDE


@pytest.mark.parametrize(
    ("picture", "at_most_1024", "at_most_1536"),
    [
        ((1000, 1000), (1024, 1024), (1024, 1024)),
        ((1600, 1200), (1024, 768), (1152, 896)),
        ((1500, 1000), (1024, 704), (1216, 832)),
        ((1920, 1080), (1024, 576), (1344, 768)),
        ((2000, 1000), (1024, 512), (1408, 704)),
    ],
)
def test_a_picture_goes_to_the_bucket_kohya_chooses(
    picture: tuple[int, int], at_most_1024: tuple[int, int], at_most_1536: tuple[int, int]
) -> None:
    assert place_in_buckets(*picture, bucket_sizes(1024 * 1024, 256, 1024, 64)).bucket == at_most_1024
    assert place_in_buckets(*picture, bucket_sizes(1024 * 1024, 256, 1536, 64)).bucket == at_most_1536


@pytest.mark.parametrize(
    ("picture", "resized", "crop"),
    [
        ((2034, 1072), (486, 256), (115, 0, 371, 256)),
        ((1271, 1045), (311, 256), (27, 0, 283, 256)),
        ((742, 796), (256, 275), (0, 9, 256, 265)),
        ((650, 650), (256, 256), (0, 0, 256, 256)),
    ],
)
def test_without_buckets_a_picture_covers_the_square_and_is_cut_at_the_centre(
    picture: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int, int, int]
) -> None:
    """Sizes of the playbook's pictures; the resized ones as kohya's own code gave them."""
    placement = cover(picture, (256, 256))
    assert (placement.resized, placement.crop) == (resized, crop)


def test_the_share_that_is_kept_is_reported() -> None:
    assert cover((2000, 1000), (512, 512)).kept == pytest.approx(0.5)
    assert cover((700, 700), (512, 512)).kept == 1.0


pictures = st.tuples(st.integers(32, 6000), st.integers(32, 6000))


@given(pictures, st.sampled_from([256, 512, 768, 1024]), st.sampled_from([32, 64]))
def test_any_picture_covers_its_bucket_and_the_crop_lies_inside(picture: tuple[int, int], side: int, step: int) -> None:
    sizes = bucket_sizes(side * side, side // 4, side * 2, step)
    placement = place_in_buckets(*picture, sizes)
    left, top, right, bottom = placement.crop
    assert placement.bucket in sizes
    assert 0 <= left <= right <= placement.resized[0]
    assert 0 <= top <= bottom <= placement.resized[1]
    assert (right - left, bottom - top) == placement.bucket
    assert 0 < placement.kept <= 1


@given(st.sampled_from([256, 512, 1024, 1536]), st.sampled_from([16, 32, 64]))
def test_every_bucket_is_made_of_steps_and_keeps_to_the_area(side: int, step: int) -> None:
    for width, height in bucket_sizes(side * side, side // 4, side * 2, step):
        assert width % step == height % step == 0
        assert width * height <= side * side


@given(st.tuples(st.integers(64, 6000), st.integers(64, 6000)))
def test_without_upscaling_no_picture_grows(picture: tuple[int, int]) -> None:
    try:
        placement = place_without_upscaling(*picture, 1024 * 1024, 64)
    except ValueError:
        # So long and thin that it shrinks below one step on the shorter side.
        assert max(picture) / min(picture) > 100 or min(picture) * 1024 / (picture[0] * picture[1]) ** 0.5 < 64
        return
    assert placement.resized[0] <= max(picture[0], 1)
    assert placement.resized[1] <= max(picture[1], 1)
    assert placement.bucket[0] % 64 == placement.bucket[1] % 64 == 0


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [((4032, 3024), (1088, 832)), ((1920, 1080), (1344, 768)), ((2034, 1072), (1280, 704)), ((800, 600), (768, 576))],
)
def test_without_upscaling_a_picture_goes_to_kohyas_bucket(picture: tuple[int, int], bucket: tuple[int, int]) -> None:
    """kohya sd-scripts, BucketManager.select_bucket with no_upscale, 1024 x 1024 pixels in steps of 64."""
    assert place_without_upscaling(*picture, 1024 * 1024, 64).bucket == bucket


def test_a_picture_below_one_step_has_no_bucket_without_upscaling() -> None:
    with pytest.raises(ValueError, match="smaller than one bucket step of 64"):
        place_without_upscaling(40, 500, 512 * 512, 64)
