"""What is odd about a folder is said, with its name and what to do; a folder without oddities has none."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.test_items import concept, dataset
from fluxbooth.config.specs import CaptionSpec, ConceptSpec, DatasetSpec, PictureSpec
from fluxbooth.dataset import caption_findings, picture_findings
from fluxbooth.dataset.caption_findings import whole_captions
from fluxbooth.dataset.common_words import COMMON_WORDS
from fluxbooth.dataset.duplicates import difference_hash, groups_alike
from fluxbooth.dataset.facts import PictureMemory
from fluxbooth.dataset.findings import Finding, amounts, exposures, shortened, subsets_of
from fluxbooth.dataset.items import read_items
from fluxbooth.errors import Problems

MakeFolder = Callable[..., Path]


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture that looks like no other: 8 x 8 fields of colours drawn by lot."""
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function that makes a folder of pictures that all look different, 1.png and so on."""

    def make(name: str, number: int = 4, first: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for one in range(1, number + 1):
            noise(first + one).save(folder / f"{one}.png")
        return folder

    return make


def found(*datasets: DatasetSpec, steps: int = 480, epochs: float = 120) -> list[Finding]:
    """Everything but the notes on exposures that read_items's pictures give."""
    problems, memory = Problems(), PictureMemory()
    items = read_items(datasets, problems, memory)
    problems.raise_if_any()
    subsets = subsets_of(datasets, items)
    facts = {item.path: memory.facts(item.path) for item in items}
    findings = [
        *picture_findings.passed_over(subsets),
        *picture_findings.of_files(subsets, facts),
        *picture_findings.of_sizes(subsets, facts),
        *picture_findings.doubles(subsets, facts),
        *caption_findings.of_caption_files(subsets),
        *caption_findings.of_captions(subsets),
        *caption_findings.of_words(subsets),
        *amounts(subsets, steps, epochs),
    ]
    return [finding for finding in findings if finding.kind != "exposures"]


def the_only(findings: Sequence[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def finding_of(*concepts: ConceptSpec, **changes: object) -> Finding:
    return the_only(found(dataset(*concepts, **changes)))


def test_a_clean_folder_has_none(make_folder: MakeFolder) -> None:
    toy = make_folder("toy")
    (toy / "1.caption").write_text("tjtoy toy on a desk", encoding="utf-8")
    (toy / ".hidden.heic").touch()
    (toy / "notes.md").touch()
    gpu = make_folder("gpu", first=10)
    assert found(dataset(concept(toy), concept(gpu, class_tokens="sparkgpu gpu"))) == []


# Pictures


def test_a_picture_turned_by_its_exif_data(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(9).save(folder / "9.jpg", exif=exif)
    finding = finding_of(concept(folder))
    assert (finding.level, finding.where) == ("note", str(folder / "9.jpg"))
    assert "turned upright" in finding.what


@pytest.mark.parametrize("alpha_mask", [False, True])
def test_transparency_that_becomes_white_unless_it_is_the_mask(make_folder: MakeFolder, alpha_mask: bool) -> None:
    folder = make_folder("toy")
    picture = noise(9).convert("RGBA")
    picture.save(folder / "8.png")  # opaque all over
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.rotate(90).save(folder / "9.png")
    findings = found(dataset(concept(folder, picture=PictureSpec(alpha_mask=alpha_mask))))
    assert [finding.where for finding in findings] == ([] if alpha_mask else [str(folder / "9.png")])


def test_an_animation(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    noise(8).save(folder / "9.webp", save_all=True, append_images=[noise(9)])
    finding = finding_of(concept(folder))
    assert finding.what == "is an animation of 2 frames, of which the first is used"
    assert finding.level == "warning"


def test_more_pixels_than_are_safe_to_decode(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder("toy", number=5)
    noise(9, (72, 72)).save(folder / "9.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 70)
    assert finding_of(concept(folder)).what == "has 72 x 72 pixels, which take 0.0 GB to decode"


def test_a_picture_smaller_than_its_bucket(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    noise(8, (32, 32)).save(folder / "8.png")
    noise(9, (62, 62)).save(folder / "9.png")
    much, little = found(dataset(concept(folder)))
    assert (much.level, much.what) == ("warning", "32 x 32 pixels are enlarged 2.00 times")
    assert (little.level, little.what) == ("note", "62 x 62 pixels are enlarged 1.03 times")
    assert "bucket_no_upscale" in much.do


def test_a_picture_that_is_cropped_and_the_key_that_would_keep_it(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    noise(9, (320, 80)).save(folder / "9.png")
    toy = concept(folder)
    assert finding_of(toy).what == "25% of its area is kept, the rest is cropped away"
    assert finding_of(toy).do == "Set enable_bucket = true: 100% would be kept"
    narrow = {"enable_bucket": True, "max_bucket_reso": 80}
    assert finding_of(toy, **narrow).do == "Set max_bucket_reso 1.25 times as large: 88% would be kept"
    assert "enable_bucket = true and max_bucket_reso 1.25" in finding_of(toy, max_bucket_reso=80).do
    noise(9, (1280, 80)).save(folder / "9.png")
    assert finding_of(toy).do == "Crop it yourself to what matters"


def test_files_that_are_passed_over(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    (folder / "phone.HEIC").touch()
    (folder / "away.png").symlink_to(folder / "nowhere.png")
    (folder / "more/deep").mkdir(parents=True)
    noise(9).save(folder / "more/deep/1.jpg")
    (folder / "empty").mkdir()
    (folder / "masks").mkdir()
    for number in range(1, 5):
        Image.new("L", (64, 64), 255).save(folder / f"masks/{number}.png")
    findings = found(dataset(concept(folder, picture=PictureSpec(mask_dir=folder / "masks"))))
    assert {Path(finding.where).name: finding.what for finding in findings} == {
        "phone.HEIC": "is passed over: .HEIC is not read",
        "away.png": f"is a link to {folder / 'nowhere.png'}, which is not there",
        "more": "is a subfolder and passed over with 1 picture in it",
    }
    assert {finding.level for finding in findings} == {"warning"}


# Doubles


def test_pictures_that_are_the_same_or_nearly(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    shutil.copy(folder / "1.png", folder / "copy.png")
    noise(2, (96, 96)).save(folder / "larger.jpg", quality=70)
    same, near = found(dataset(concept(folder)))
    assert (same.where, same.what) == (str(folder / "copy.png"), f"is the same file as {folder / '1.png'}")
    assert (near.where, near.what) == (str(folder / "larger.jpg"), f"looks nearly the same as {folder / '2.png'}")


def test_a_picture_of_two_concepts(make_folder: MakeFolder) -> None:
    toy, gpu = make_folder("toy"), make_folder("gpu", first=10)
    shutil.copy(toy / "1.png", gpu / "9.png")
    finding = finding_of(concept(toy), concept(gpu, class_tokens="sparkgpu gpu"))
    assert finding.what.endswith("and so teaches both 'tjtoy toy' and 'sparkgpu gpu'")


def test_one_shape_in_other_colours_is_no_double(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    shape = Image.radial_gradient("L").resize((64, 64))
    for name, channels in (("red", (shape, None, None)), ("blue", (None, None, shape))):
        dark = Image.new("L", shape.size)
        Image.merge("RGB", [channel or dark for channel in channels]).save(folder / f"{name}.png")
    assert found(dataset(concept(folder))) == []


def test_one_folder_in_two_datasets_is_no_double(make_folder: MakeFolder) -> None:
    toy = concept(make_folder("toy"))
    assert found(dataset(toy), dataset(toy, width=32, height=32)) == []


def test_planted_pairs_are_found_among_twenty_thousand_hashes() -> None:
    randomness = random.Random(0)
    hashes = [randomness.getrandbits(64) for _ in range(20_000)]
    planted = []
    for place, differing in enumerate((0, 1, 2, 3, 4, 5) * 20):
        other = hashes[place]
        for bit in randomness.sample(range(64), differing):
            other ^= 1 << bit
        if differing < 5:
            planted.append([place, len(hashes)])
        hashes.append(other)
    assert groups_alike(hashes) == planted


def test_many_hashes_that_are_all_alike_are_one_group() -> None:
    randomness = random.Random(0)
    hashes = [1 << randomness.randrange(4) for _ in range(20_000)]
    assert groups_alike(hashes) == [list(range(20_000))]


def test_a_hash_is_the_same_in_another_size() -> None:
    distance = difference_hash(noise(1)) ^ difference_hash(noise(1, (300, 200)))
    assert distance.bit_count() <= 4
    assert (difference_hash(noise(1)) ^ difference_hash(noise(2))).bit_count() > 10


# Captions


@pytest.mark.parametrize("ending", [".txt", ".cap"])
def test_captions_of_another_ending(make_folder: MakeFolder, ending: str) -> None:
    folder = make_folder("toy")
    for number in (1, 2):
        (folder / f"{number}{ending}").write_text("tjtoy toy", encoding="utf-8")
    finding = finding_of(concept(folder))
    assert finding.level == "warning"
    assert finding.what == f"2 captions in {ending} files are not read (1{ending}, 2{ending})"
    assert finding.do == f'Set caption_extension = "{ending}" to read them'
    for number in (1, 2):
        (folder / f"{number}.caption").write_text("tjtoy toy", encoding="utf-8")
    assert finding_of(concept(folder)).level == "note"


def test_a_caption_file_without_a_picture(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    (folder / "9.caption").write_text("tjtoy toy", encoding="utf-8")
    assert finding_of(concept(folder)).what == "1 caption file is beside no picture (9.caption)"


def test_a_caption_that_is_empty_for_kohya(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    (folder / "1.caption").write_text("\ntjtoy toy on a desk", encoding="utf-8")
    finding = finding_of(concept(folder))
    assert "begins with an empty line" in finding.what
    assert finding.where == str(folder / "1.caption")


@pytest.mark.parametrize(
    ("caption", "prefix", "lacks"),
    [
        ("a toy on a desk", "", True),
        ("a toy on a desk", "tjtoy", False),
        ("Tjtoy toy on a desk", "", True),
        ("tjtoys on a desk", "", True),
        ("the tjtoy's ear", "", False),
        ("toy, (tjtoy), desk", "", False),
    ],
)
def test_a_caption_without_its_made_up_word(make_folder: MakeFolder, caption: str, prefix: str, lacks: bool) -> None:
    folder = make_folder("toy")
    (folder / "1.caption").write_text(caption, encoding="utf-8")
    findings = found(dataset(concept(folder, caption=CaptionSpec(prefix=prefix))))
    assert [finding.what for finding in findings] == ([f"the caption '{caption}' lacks 'tjtoy'"] if lacks else [])


def test_another_concepts_word_in_a_caption(make_folder: MakeFolder) -> None:
    toy, gpu = make_folder("toy"), make_folder("gpu", first=10)
    (toy / "1.caption").write_text("tjtoy toy beside the Sparkgpu, on a desk", encoding="utf-8")
    finding = finding_of(concept(toy), concept(gpu, class_tokens="sparkgpu gpu"))
    assert finding.what == "the caption of 'tjtoy toy' has 'sparkgpu', the made-up word of 'sparkgpu gpu'"


def test_a_made_up_word_in_regularization(make_folder: MakeFolder) -> None:
    toy, toys = make_folder("toy"), make_folder("toys", number=1, first=10)
    finding = finding_of(concept(toy), concept(toys, is_reg=True))
    assert "a regularization picture has 'tjtoy'" in finding.what


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("tjtoy robot", "'tjtoy toy' and 'tjtoy robot' have one made-up word, 'tjtoy'"),
        ("tjtoyx robot", "the made-up word 'tjtoyx' has the other concept's 'tjtoy' in it"),
    ],
)
def test_words_that_are_too_near(make_folder: MakeFolder, other: str, said: str) -> None:
    findings = found(dataset(concept(make_folder("toy")), concept(make_folder("other", first=10), class_tokens=other)))
    assert said in [finding.what for finding in findings]


@pytest.mark.parametrize(
    ("tokens", "level", "said"),
    [
        ("red toy", "warning", "begins with 'red', a plain English word"),
        ("a tjtoy toy", "warning", "begins with 'a', a plain English word"),
        ("Dog", "warning", "begins with 'Dog', a plain English word"),
        ("tjtoy", "note", "is one word"),
    ],
)
def test_class_tokens_without_a_made_up_word_or_a_noun(
    make_folder: MakeFolder, tokens: str, level: str, said: str
) -> None:
    finding = finding_of(concept(make_folder("toy"), class_tokens=tokens))
    assert finding.level == level
    assert said in finding.what
    assert finding.where == "data.toml, subset 1"


def test_common_words_are_words() -> None:
    assert len(COMMON_WORDS) > 400
    assert all(word.isalpha() and word.islower() for word in COMMON_WORDS)


def test_keep_tokens_that_keep_nothing(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    finding = finding_of(concept(folder, caption=CaptionSpec(keep_tokens=2)))
    assert (finding.level, finding.what.split(":")[0]) == ("note", "keep_tokens = 2 has no effect")
    for used in ({"shuffle": True}, {"tag_dropout_rate": 0.1}, {"warmup_step": 10.0}):
        assert found(dataset(concept(folder, caption=replace(CaptionSpec(keep_tokens=2), **used)))) == []


def test_a_whole_caption_has_its_prefix_and_its_longest_choice(make_folder: MakeFolder) -> None:
    folder = make_folder("toy")
    (folder / "1.caption").write_text("a {red|turquoise} toy\n{{x}} ||| b", encoding="utf-8")
    spec = CaptionSpec(prefix="tjtoy", wildcard=True, dropout_rate=1.0, shuffle=True)
    items = read_items([dataset(concept(folder, caption=spec))], Problems())
    assert whole_captions(items[0])[0] == "tjtoy a turquoise toy"


# Amounts


def test_the_views_of_a_concept_are_spelled_out(make_folder: MakeFolder) -> None:
    datasets = [dataset(concept(make_folder("toy", number=5), num_repeats=8))]
    subsets = subsets_of(datasets, read_items(datasets, Problems()))
    note = the_only(list(amounts(subsets, 800, 20)))
    assert (note.level, note.what) == ("note", "'tjtoy toy': 5 pictures x 8 repeats x 20 epochs = seen 800 times")
    assert exposures(subsets, 20) == {"tjtoy toy": 800}


def test_few_pictures(make_folder: MakeFolder) -> None:
    assert finding_of(concept(make_folder("toy", number=3))).what == "'tjtoy toy' has 3 pictures"


@pytest.mark.parametrize(("epochs", "steps"), [(10, "400 to 600"), (1000, "400 to 600")])
def test_pictures_that_are_seen_too_seldom_or_too_often(make_folder: MakeFolder, epochs: int, steps: str) -> None:
    finding = the_only(found(dataset(concept(make_folder("toy"))), steps=4 * epochs, epochs=epochs))
    assert finding.what == f"each picture of 'tjtoy toy' is seen {epochs:.3g} times"
    assert finding.do == f"100 to 150 times take {steps} steps: max_train_steps"


def test_concepts_out_of_balance(make_folder: MakeFolder) -> None:
    toy, gpu = make_folder("toy", number=5), make_folder("gpu", first=10)
    finding = finding_of(concept(toy, num_repeats=3), concept(gpu, class_tokens="sparkgpu gpu", where="subset 2"))
    assert finding.what == "an epoch shows 'sparkgpu gpu' 4 times and 'tjtoy toy' 15 times"
    assert finding.do == "num_repeats = 4 (now 1) evens them"
    assert finding.where == "subset 2"
    assert found(dataset(concept(toy), concept(gpu, class_tokens="sparkgpu gpu"))) == []


def test_a_long_list_of_one_kind_is_shortened() -> None:
    many = [Finding("note", f"picture {number} is odd", kind="odd") for number in range(1007)]
    lines = list(shortened([*many, Finding("note", "another", kind="other")]))
    assert lines == [*(f"picture {number} is odd." for number in range(5)), "... and 1,002 more like this", "another."]
