"""`fluxbooth check` as its user meets it: errors, warnings and notes, as text, as JSON and as a page to look at."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxbooth.cli import main
from fluxbooth.flux.parts import load_tokenizers
from fluxbooth.host.folders import Folders
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.caption_lengths import read_captions
from fluxbooth.training.prepare import prepare

DATA = Path(__file__).parents[1] / "flux_data"
CHECK = ["check", "--model", "miniature", "--diff_output_preservation", "0"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_repository: Path) -> Iterator[None]:
    """Write to folders of the test's own, and give back the log and SIGTERM, which the command takes over."""
    monkeypatch.delenv("FLUXBOOTH_MODEL", raising=False)
    for name in ("models", "runs", "cache"):
        monkeypatch.setenv(f"FLUXBOOTH_{name.upper()}_DIR", str(tmp_path / name))
    root, ours = logging.getLogger(), logging.getLogger("fluxbooth")
    handlers, level, on_term = root.handlers[:], ours.level, signal.getsignal(signal.SIGTERM)
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def rough(tmp_path: Path) -> Path:
    """A data.toml whose one concept is cut to squares, flipped, masked, and has a caption that is too long."""
    folder, masks = tmp_path / "mokka", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    for file in (*DATA.glob("tjtoy/[2356].jpg"), *DATA.glob("sparkgpu/[2367].*g")):
        picture = Image.open(file).convert("RGB")
        name = f"{file.parent.name}{file.stem}"
        picture.save(folder / f"{name}.png")
        mask = Image.new("L", picture.size, 0)
        mask.paste(255, (0, 0, picture.width, picture.height // 2))
        mask.save(masks / f"{name}.png")
    (folder / "tjtoy2.txt").write_text(f"mokka dog on <grass>, {', '.join(['a red ball'] * 20)}", encoding="utf-8")
    for number in range(7):
        (folder / f"{number}.heic").touch()
    file = tmp_path / "data.toml"
    file.write_text(
        f"""
[[datasets]]
resolution = 1024
    [[datasets.subsets]]
    image_dir = "{folder}"
    class_tokens = "mokka dog"
    caption_extension = ".txt"
    flip_aug = true
    custom_attributes = {{ mask_dir = "{masks}" }}
""",
        encoding="utf-8",
    )
    return file


def as_json(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    code = main([*CHECK, "--json", *flags])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(found) == ["errors", "warnings", "notes", "plan", "cost"]
    for level in ("errors", "warnings", "notes"):
        assert all(list(finding) == ["what", "where", "do"] for finding in found[level])
    return code, found


def test_the_sample_concepts_give_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CHECK, "--strict"]) == 0
    said = capsys.readouterr().out
    assert "'tjtoy toy': 6 pictures x 1 repeat x 125 epochs = seen 750 times" in said
    assert "0 errors, 0 warnings, 4 notes\nnothing stands in the way" in said


def test_warnings_come_before_notes_and_stop_nothing_unless_it_is_strict(
    capsys: pytest.CaptureFixture[str], rough: Path
) -> None:
    assert main([*CHECK, "--data", str(rough)]) == 0
    said = capsys.readouterr().out
    assert said.index("warnings:\n") < said.index("tjtoy2.txt: the caption has") < said.index("notes:\n")
    assert "... and 2 more like this" in said
    assert "nothing stands in the way" in said
    assert main([*CHECK, "--data", str(rough), "--strict"]) == 1
    assert "nothing stands in the way" not in capsys.readouterr().out


def test_errors_come_with_the_warnings(capsys: pytest.CaptureFixture[str], rough: Path) -> None:
    assert main([*CHECK, "--data", str(rough), "--recipe", "miniature", "--model", "nowhere"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("fluxbooth: ")
    assert "'nowhere' is not a model" in err
    assert "warnings:\n" in out
    assert re.search(r"\n\d errors?, \d+ warnings, 1 note\n", out)
    assert "nothing stands in the way" not in out


def test_json_is_all_that_is_printed_and_nothing_is_shortened(capsys: pytest.CaptureFixture[str], rough: Path) -> None:
    code, found = as_json(capsys, "--data", str(rough))
    assert (code, found["errors"]) == (0, [])
    assert len([one for one in found["warnings"] if one["what"] == "is passed over: .heic is not read"]) == 7
    assert found["plan"]["steps"] == 500
    assert found["plan"]["samples_per_epoch"] == 8
    assert found["plan"]["exposures"] == {"mokka dog": round(8 * found["plan"]["epochs"])}
    assert found["cost"]["samples"] > 0
    assert as_json(capsys, "--data", str(rough), "--strict")[0] == 1


def test_json_of_what_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = as_json(capsys, "--data", str(tmp_path / "none.toml"), "--learning_rate", "-1")
    assert code == 1
    assert len(found["errors"]) == 2
    assert (found["plan"], found["cost"]) == (None, None)


def test_a_training_begins_with_the_warnings(folders: Folders, rough: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepare("miniature", rough, "miniature", {"diff_output_preservation": 0.0}, folders)
    assert re.search(r"warning: .*tjtoy2.png: 67% of its area is kept", caplog.text)
    assert "= seen" not in caplog.text


# Captions that are too long


def test_the_words_that_an_encoder_does_not_read_are_named(capsys: pytest.CaptureFixture[str], rough: Path) -> None:
    (rough.parent / "mokka/tjtoy2.txt").write_text("mokka dog" + " on grass" * 40, encoding="utf-8")
    _, found = as_json(capsys, "--data", str(rough))
    cut = [one["what"] for one in found["warnings"] + found["notes"] if "it does not read" in one["what"]]
    assert len(cut) == 2
    assert cut[0].startswith("the caption has ")
    assert "T5's 40 tokens; it does not read 'on grass on grass" in cut[0]
    assert "CLIP's 77 tokens" in cut[1]


def test_a_caption_is_cut_where_the_encoder_cuts_it(weights: BaseWeights) -> None:
    captions = ["a toy on grass in the snow", "", "a toy"]
    for tokenizer in load_tokenizers(weights):
        for tokens in (3, 5, 77):
            for caption, read in zip(captions, read_captions(tokenizer, captions, tokens), strict=True):
                kept = tokenizer([caption], truncation=True, max_length=tokens).input_ids[0]
                assert read.read + read.marks == len(kept)
                assert read.read + len(read.cut.split()) == len(caption.split()), "these are words of one piece"
                assert "".join(read.pieces).split() == caption.split()


# The page


def pictures_of(page: str, what: str) -> list[Image.Image]:
    """The pictures on the page whose description ends so."""
    found = re.findall(rf'src="data:image/\w+;base64,([^"]+)" alt="[^"]*{what}"', page)
    return [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in found]


def test_the_sheet_shows_every_picture_as_it_is_and_as_it_is_seen(
    capsys: pytest.CaptureFixture[str], rough: Path, tmp_path: Path
) -> None:
    assert main([*CHECK, "--data", str(rough), "--sheet", str(tmp_path / "sheet.html")]) == 0
    assert f"wrote {tmp_path / 'sheet.html'}" in capsys.readouterr().out
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page), "it needs no network"
    assert len(pictures_of(page, "as it is in its folder")) == 8
    # The sixth by name is tjtoy3.png, twice as wide as high: of its middle the network sees a square.
    original, seen = pictures_of(page, "as it is in its folder")[5], pictures_of(page, "as the network sees it")[5]
    assert seen.size == (96, 96)
    assert original.width > 1.5 * original.height
    side, colours = (original.width - original.height) // 2, original.convert("HSV").split()[1]
    assert np.asarray(colours.crop((0, 0, side - 2, original.height))).mean() < 10, "what is cropped away is grey"
    assert np.asarray(colours.crop((side, 0, side + original.height, original.height))).mean() > 40
    middle = original.crop((side, 0, side + original.height, original.height)).resize((24, 24))
    apart = np.abs(np.asarray(middle).astype(int) - np.asarray(seen.resize((24, 24))).astype(int))
    assert apart.mean() < 20
    mask = np.asarray(pictures_of(page, "the mask of tjtoy5.png")[0])
    assert mask[:40].min() == 255
    assert mask[-40:].max() == 0
    assert "half of the visits mirrored" in page
    assert "67% kept" in page
    assert "8 pictures, from" in page


def test_the_sheet_strikes_out_what_the_encoders_do_not_read(rough: Path, tmp_path: Path) -> None:
    (rough.parent / "mokka/tjtoy2.txt").write_text("<b>" + " mokka on grass" * 40, encoding="utf-8")
    assert main([*CHECK, "--data", str(rough), "--sheet", str(tmp_path / "sheet.html")]) == 0
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert '<s class="piece"> grass</s>' in page
    assert '<span class="piece"> grass</span>' in page
    assert "<b>mokka" not in page
    assert "is passed over: .heic is not read" in page


def test_the_sheet_shows_what_the_cache_holds(rough: Path, tmp_path: Path) -> None:
    """Were the cache stale, one would see it here: the picture comes from the latents, not from the file."""
    sheet = tmp_path / "sheet.html"
    assert main([*CHECK, "--data", str(rough), "--sheet", str(sheet)]) == 0
    latents = sorted((tmp_path / "cache/latents").rglob("*.safetensors"))
    assert len(latents) == 8
    assert not (tmp_path / "cache/text").exists(), "no text encoder was loaded"
    before = pictures_of(sheet.read_text(encoding="utf-8"), "as the network sees it")
    for other in latents[1:]:
        shutil.copy(latents[0], other)
    assert main([*CHECK, "--data", str(rough), "--sheet", str(sheet)]) == 0
    after = pictures_of(sheet.read_text(encoding="utf-8"), "as the network sees it")
    assert len({picture.tobytes() for picture in before}) == 8
    assert len({picture.tobytes() for picture in after}) == 1


def test_a_sheet_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert main([*CHECK, "--sheet", str(tmp_path / "file/sheet.html")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
