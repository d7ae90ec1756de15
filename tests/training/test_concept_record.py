"""What a run keeps of its pictures: small ones, with captions and no paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from builders import make_item
from PIL import Image

from fluxbooth.dataset.items import Item
from fluxbooth.training.concept_record import read_concepts, record_concepts


def items_of(folder: Path, repeats: int = 1, is_reg: bool = False, concept: str = "tjtoy toy") -> list[Item]:
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    return [
        make_item(
            n,
            repeats,
            is_reg=is_reg,
            path=path,
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
            concept=concept,
            caption=f"{concept}, a, b, c",
        )
        for n, path in enumerate(paths)
    ]


def test_concepts_and_their_pictures_are_kept_small(make_concept: Callable[..., Path], tmp_path: Path) -> None:
    toys = items_of(make_concept("toy", [(600, 300), (64, 64)]), repeats=3)
    others = items_of(make_concept("toys", [(32, 32)]), is_reg=True, concept="toy")
    record_concepts(tmp_path / "concepts", [*toys, *others], toys)
    toy, reg = read_concepts(tmp_path / "concepts")
    assert (toy.class_tokens, toy.number, toy.repeats, toy.is_reg) == ("tjtoy toy", 2, 3, False)
    assert (reg.class_tokens, reg.is_reg, reg.pictures[0].caption) == ("toy", True, "toy, a, b, c")
    first = toy.pictures[0]
    assert (first.name, first.caption, first.width, first.height) == ("toy/1.png", "tjtoy toy, a, b, c", 64, 64)
    with Image.open(tmp_path / "concepts" / first.small_file) as small:
        assert small.size == (256, 128)
    assert str(tmp_path) not in (tmp_path / "concepts/concepts.json").read_text()


def test_the_same_data_are_recorded_once_and_other_data_anew(make_concept: Callable[..., Path], tmp_path: Path) -> None:
    items = items_of(make_concept("toy", [(64, 64), (48, 48)]))
    record_concepts(tmp_path / "concepts", items, [])
    (tmp_path / "concepts/mark").touch()
    record_concepts(tmp_path / "concepts", items, [])
    assert (tmp_path / "concepts/mark").exists()
    record_concepts(tmp_path / "concepts", items[:1], [])
    assert len(list((tmp_path / "concepts").iterdir())) == 2, "the file and one picture"


def test_of_many_pictures_two_dozen_are_kept_and_those_that_are_evaluated(
    make_concept: Callable[..., Path], tmp_path: Path
) -> None:
    items = items_of(make_concept("toy", [(16, 16 + n) for n in range(30)]))
    record_concepts(tmp_path / "concepts", items, [items[29]])
    (toy,) = read_concepts(tmp_path / "concepts")
    assert toy.number == 30
    assert [picture.name for picture in toy.pictures] == [*(f"toy/{n}.png" for n in range(1, 25)), "toy/30.png"]


def test_a_folder_without_a_record_has_no_concepts(tmp_path: Path) -> None:
    assert read_concepts(tmp_path) == []
    (tmp_path / "concepts.json").write_text('[{"of": "another version"}]')
    assert read_concepts(tmp_path) == []
