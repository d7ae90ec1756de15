import shutil
from pathlib import Path

import draw_concepts
import draw_other_subjects
import pytest
from PIL import Image, ImageChops, ImageStat
from world.scene import Thing
from world.subjects import SPARKGPU, TJTOY, others_like

FLUX_DATA = Path(__file__).parents[2] / "flux_data"


def pictures_of(concept: str) -> list[Path]:
    return sorted(path for path in (FLUX_DATA / concept).iterdir() if path.suffix in (".png", ".jpg"))


def sizes_of(concept: str) -> list[tuple[int, int]]:
    sizes = []
    for path in pictures_of(concept):
        with Image.open(path) as picture:
            sizes.append(picture.size)
    return sizes


def test_committed_pictures_are_what_the_script_draws(capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_concepts.main(["--check"]) == 0, capsys.readouterr().err
    drawn = {FLUX_DATA / picture.path for picture in draw_concepts.PICTURES}
    assert drawn == {*pictures_of("tjtoy"), *pictures_of("sparkgpu")}


def test_there_are_six_and_seven() -> None:
    assert len(pictures_of("tjtoy")) == 6
    assert len(pictures_of("sparkgpu")) == 7


@pytest.mark.parametrize("concept", ["tjtoy", "sparkgpu"])
def test_pictures_are_of_many_shapes(concept: str) -> None:
    sizes = sizes_of(concept)
    assert any(height > width for width, height in sizes), "no portrait"
    assert any(width * 9 == height * 16 for width, height in sizes), "no 16:9"
    assert any(max(size) <= 320 for size in sizes), "no small one"
    assert {path.suffix for path in pictures_of(concept)} == {".png", ".jpg"}
    modes = []
    for path in pictures_of(concept):
        with Image.open(path) as picture:
            if picture.mode == "RGBA":
                modes.append(picture.getchannel("A").getextrema())
    assert modes == [(0, 255)], "one cut-out with a transparent background"


def test_each_picture_has_other_surroundings() -> None:
    for concept in ("tjtoy", "sparkgpu"):
        places = [picture.scene.surroundings for picture in draw_concepts.PICTURES if picture.path.startswith(concept)]
        assert len(set(places)) == len(places)
        # These are what the demo asks the trained LoRA for.
        assert not {"beach", "datacenter"} & set(places)


def test_pictures_are_small_files() -> None:
    assert sum(path.stat().st_size for concept in ("tjtoy", "sparkgpu") for path in pictures_of(concept)) < 8_000_000


def test_drawing_again_gives_the_same_bytes() -> None:
    small = [picture for picture in draw_concepts.PICTURES if picture.width <= 320]
    for picture in small:
        assert draw_concepts.encode(picture) == draw_concepts.encode(picture)


def test_check_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for concept in ("tjtoy", "sparkgpu"):
        shutil.copytree(FLUX_DATA / concept, tmp_path / concept)
    (tmp_path / "tjtoy/5.jpg").unlink()
    (tmp_path / "tjtoy/6.txt").write_text("tjtoy toy on a table")
    (tmp_path / "sparkgpu/2.png").write_text("no picture")
    Image.new("RGB", (320, 320), "white").save(tmp_path / "sparkgpu/6.png")
    assert draw_concepts.main(["--check", "--folder", str(tmp_path)]) == 1
    problems = capsys.readouterr().err
    assert "tjtoy/5.jpg: is missing" in problems
    assert "tjtoy/6.txt: does not say 'tjtoy toy on a desk'" in problems
    assert "sparkgpu/2.png: is not a picture" in problems
    assert "sparkgpu/6.png: differs" in problems
    assert len(problems.splitlines()) == 4


@pytest.mark.parametrize(("subject", "number"), [(TJTOY, 0), (SPARKGPU, 8)], ids=["toy", "gpu"])
def test_committed_other_subjects_are_what_the_script_draws(subject: Thing, number: int) -> None:
    pictures = [picture for picture in draw_concepts.PICTURES if picture.path.startswith(subject.name)]
    strip = draw_other_subjects.draw_strip(others_like(subject)[number], pictures)
    with Image.open(draw_other_subjects.FOLDER / subject.kind / f"{number + 1:02d}.png") as committed:
        assert max(ImageStat.Stat(ImageChops.difference(strip, committed)).mean) < 1.5


@pytest.mark.parametrize("subject", [TJTOY, SPARKGPU], ids=["toy", "gpu"])
def test_half_of_the_other_subjects_differ_in_three_attributes_only(subject: Thing) -> None:
    others = others_like(subject)
    differing = [
        sum(mine != theirs for mine, theirs in zip(subject.attributes, other.attributes, strict=True))
        for other in others
    ]
    assert differing[:6] == [3] * 6
    assert len({other.attributes for other in others}) == 12
    assert min(differing) >= 3
