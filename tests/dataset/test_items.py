"""Concept folders become items; what cannot be trained on is named, picture by picture, all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.config.specs import CaptionSpec, ConceptSpec, DatasetSpec, PictureSpec
from fluxbooth.dataset.items import Item, read_items
from fluxbooth.errors import Problems, UserError

MakeConcept = Callable[..., Path]


def concept(folder: Path, **changes: object) -> ConceptSpec:
    plain = ConceptSpec(
        image_dir=folder,
        class_tokens="tjtoy toy",
        num_repeats=1,
        is_reg=False,
        caption_extension=".caption",
        caption=CaptionSpec(),
        picture=PictureSpec(),
        where="data.toml, subset 1",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def dataset(*concepts: ConceptSpec, **changes: object) -> DatasetSpec:
    plain = DatasetSpec(
        width=64,
        height=64,
        batch_size=1,
        enable_bucket=False,
        min_bucket_reso=32,
        max_bucket_reso=128,
        bucket_reso_steps=16,
        bucket_no_upscale=False,
        concepts=concepts,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def read(*datasets: DatasetSpec) -> list[Item]:
    problems = Problems()
    items = read_items(datasets, problems)
    problems.raise_if_any()
    return items


def complaints(*datasets: DatasetSpec) -> list[str]:
    with pytest.raises(UserError) as raised:
        read(*datasets)
    return [str(problem) for problem in raised.value.problems]


def test_an_item_is_known_by_its_bytes_and_carries_its_concepts_settings(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", [(64, 64), (96, 48)], captions={"2.caption": "tjtoy toy, lying"})
    first, second = read(dataset(concept(folder, num_repeats=3, picture=PictureSpec(flip_aug=True)), batch_size=2))
    assert first.digest == hashlib.sha256((folder / "1.png").read_bytes()).hexdigest()
    assert (first.caption, second.caption) == ("tjtoy toy", "tjtoy toy, lying")
    assert (first.repeats, first.picture_spec.flip_aug, first.batch_size, first.concept) == (3, True, 2, "tjtoy toy")


def test_without_buckets_all_items_have_the_resolution(make_concept: MakeConcept) -> None:
    items = read(dataset(concept(make_concept("toy", [(64, 64), (96, 48), (20, 80)]))))
    assert {item.placement.bucket for item in items} == {(64, 64)}


def test_with_buckets_items_keep_their_shape(make_concept: MakeConcept) -> None:
    items = read(dataset(concept(make_concept("toy", [(64, 64), (128, 64), (40, 80)])), enable_bucket=True))
    assert [item.placement.bucket for item in items] == [(64, 64), (80, 48), (48, 80)]


def test_without_upscaling_small_items_stay_small(make_concept: MakeConcept) -> None:
    (item,) = read(dataset(concept(make_concept("toy", [(40, 36)])), enable_bucket=True, bucket_no_upscale=True))
    assert item.placement.bucket == (32, 32)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (complaint,) = complaints(dataset(concept(tmp_path)))
    assert complaint.startswith("data.toml, subset 1: no pictures in")
    assert ".png" in complaint


def test_every_bad_file_is_named_in_one_go(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", [(64, 64)] * 4, captions={"2.caption": ""})
    (folder / "1.png").write_text("<html>Access denied</html>", encoding="utf-8")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    said = "\n".join(complaints(dataset(concept(folder))))
    assert "1.png: cannot be read as a picture" in said
    assert "2.caption: the caption cannot be used: it is empty" in said
    assert "3.png: cannot be read as a picture" in said
    assert "4.png" not in said


def test_a_picture_without_any_caption_is_named(make_concept: MakeConcept) -> None:
    (complaint,) = complaints(dataset(concept(make_concept("toy", [(64, 64)]), class_tokens="")))
    assert "1.png: has no caption" in complaint
    assert "1.caption" in complaint


def test_two_pictures_that_would_share_a_caption_file_are_named(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", [(64, 64)])
    (folder / "1.jpg").write_bytes((folder / "1.png").read_bytes())
    (complaint,) = complaints(dataset(concept(folder)))
    assert "1.jpg, 1.png share one name" in complaint


def test_a_picture_too_thin_for_any_bucket_is_named(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", [(12, 60)])
    (complaint,) = complaints(dataset(concept(folder), enable_bucket=True, bucket_no_upscale=True))
    assert "1.png: 12 x 60 pixels is smaller than one bucket step of 16" in complaint


def test_a_picture_of_which_next_to_nothing_would_be_seen_is_named(make_concept: MakeConcept) -> None:
    (complaint,) = complaints(dataset(concept(make_concept("toy", [(9000, 20)]))))
    assert "1.png: 9000 x 20 pixels is so thin that 0.2% would be seen" in complaint


def test_repeats_that_are_left_to_fluxbooth_even_the_concepts_out(make_concept: MakeConcept) -> None:
    """6 pictures three times are 18 visits: 2 pictures are seen nine times each; what has a number keeps it."""
    large = concept(make_concept("large", [(64, 64)] * 6), num_repeats=3)
    small = concept(make_concept("small", [(64, 64)] * 2), num_repeats=None)
    fixed = concept(make_concept("fixed", [(64, 64)]), num_repeats=1)
    reg = concept(make_concept("reg", [(64, 64)] * 40), num_repeats=1, is_reg=True)
    repeats = {item.path.parent.name: item.repeats for item in read(dataset(large, small, fixed, reg))}
    assert repeats == {"large": 3, "small": 9, "fixed": 1, "reg": 1}


def test_a_folder_of_masks_gives_each_picture_the_one_of_its_name(make_concept: MakeConcept) -> None:
    pictures, masks = make_concept("toy", [(64, 48), (48, 64)]), make_concept("masks", [(64, 48), (48, 64)])
    items = read(dataset(concept(pictures, picture=PictureSpec(mask_dir=masks))))
    assert [item.mask for item in items] == [masks / "1.png", masks / "2.png"]
    assert len({item.mask_digest for item in items}) == 2


def test_a_mask_that_is_missing_or_of_another_size_is_said(make_concept: MakeConcept) -> None:
    pictures, masks = make_concept("toy", [(64, 48), (48, 64)]), make_concept("masks", [(32, 24)])
    first, second = complaints(dataset(concept(pictures, picture=PictureSpec(mask_dir=masks))))
    assert "1.png has 32 x 24 pixels, 1.png 64 x 48" in first
    assert "0 masks called '2'" in second


def test_where_alpha_is_the_mask_the_picture_is_its_own(make_concept: MakeConcept) -> None:
    (item,) = read(dataset(concept(make_concept("toy", [(64, 48)]), picture=PictureSpec(alpha_mask=True))))
    assert (item.mask, item.mask_digest) == (item.path, item.digest)


def test_with_wildcards_every_line_of_a_caption_is_kept(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", [(64, 64)], {"1.caption": "one\n\n two \n"})
    assert [item.caption for item in read(dataset(concept(folder)))] == ["one"]
    wild = concept(folder, caption=CaptionSpec(wildcard=True))
    assert [item.caption for item in read(dataset(wild))] == ["one\ntwo"]


def held_out(items: list[Item]) -> set[str]:
    return {item.path.stem for item in items if item.held_out}


@pytest.mark.parametrize(
    ("pictures", "share", "number"), [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (5, 0.2, 1), (10, 0.3, 3), (4, 0.0, 0)]
)
def test_the_share_of_a_concept_is_held_out_at_least_one_and_never_all(
    make_concept: MakeConcept, pictures: int, share: float, number: int
) -> None:
    folder = make_concept("toy", sizes=[(64, 64 + place) for place in range(pictures)])
    items = read(dataset(concept(folder, validation_split=share)))
    assert len(items) == pictures
    assert len(held_out(items)) == number


def test_what_is_held_out_follows_from_the_pictures_and_the_seed(make_concept: MakeConcept, tmp_path: Path) -> None:
    """Neither their names and order nor another size make a difference, and a larger share holds out others, too."""
    folder = make_concept("toy", sizes=[(64, 64 + place) for place in range(12)])
    spec = concept(folder, validation_split=0.25)

    def digests(spec: ConceptSpec, **changes: object) -> set[str]:
        return {item.digest for item in read(dataset(spec, **changes)) if item.held_out}

    chosen = digests(spec)
    assert digests(spec, width=32, height=32) == chosen
    assert chosen < digests(replace(spec, validation_split=0.5))
    assert digests(replace(spec, validation_seed=1)) != chosen
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        (renamed / f"{number:02}.png").write_bytes(file.read_bytes())
    assert digests(replace(spec, image_dir=renamed)) == chosen


def test_regularization_pictures_are_not_held_out(make_concept: MakeConcept) -> None:
    folder = make_concept("toy", sizes=[(64, 64 + place) for place in range(6)])
    assert not held_out(read(dataset(concept(folder, validation_split=0.5, is_reg=True))))


def test_a_picture_that_is_held_out_is_trained_on_nowhere(make_concept: MakeConcept) -> None:
    """Two datasets of one folder, for two sizes, hold out the same; copies go together."""
    folder = make_concept("toy", sizes=[(64, 64 + place) for place in range(6)])
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    spec = concept(folder, validation_split=0.4)
    items = read(dataset(spec), dataset(spec, width=32, height=32))
    assert len(held_out(items)) * 2 == sum(item.held_out for item in items)
    assert not {item.digest for item in items if item.held_out} & {item.digest for item in items if not item.held_out}
    said = complaints(dataset(spec), dataset(concept(folder), width=32, height=32))
    assert len(said) == len(held_out(items))
    assert all("is held out of the training, and the same picture is trained on" in one for one in said)


def test_what_is_held_out_does_not_count_where_concepts_are_evened(make_concept: MakeConcept) -> None:
    large = concept(make_concept("toy", sizes=[(64, 64 + place) for place in range(10)]), validation_split=0.4)
    small = concept(make_concept("gpu", sizes=[(80, 64), (80, 65), (80, 66)]), num_repeats=None)
    items = read(dataset(large, small))
    assert {item.repeats for item in items if item.path.parent.name == "gpu"} == {2}
