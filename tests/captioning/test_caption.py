"""The command `fluxbooth caption` as its user meets it, on models of the real classes made on the spot."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from captioning.models import save_blip, save_florence2
from fluxbooth.captioning.captioner import Captioner
from fluxbooth.cli import main
from fluxbooth.host import hub as hub_module
from fluxbooth.host.captioners import CAPTIONER_FILES

SAVED_BY = {"blip": save_blip, "florence2": save_florence2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each kind, saved once."""
    folder = tmp_path_factory.mktemp("saved")
    for kind, save in SAVED_BY.items():
        save(folder / kind)
    return folder


@pytest.fixture
def blip(saved: Path) -> Path:
    return saved / "blip"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with four pictures that differ in size and colour."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, size, colour in (
        ("1.png", (48, 32), "red"),
        ("2.jpg", (32, 48), "green"),
        ("3.webp", (40, 40), "blue"),
        ("4.png", (64, 20), "white"),
    ):
        Image.new("RGB", size, colour).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Everything lies in a folder of the test's own; log and SIGTERM, which the command takes over, are given back."""
    for name in ("models", "runs", "cache"):
        monkeypatch.setenv(f"FLUXBOOTH_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.chdir(tmp_path)
    root, ours = logging.getLogger(), logging.getLogger("fluxbooth")
    handlers, level, on_term = root.handlers[:], ours.level, signal.getsignal(signal.SIGTERM)
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def _no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Captioner, "__init__", refuse)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], _no_model_is_loaded: None) -> Callable[..., str]:
    """Return what a refused call says, having checked that it ends with 1 before any model was loaded."""

    def say(*arguments: str | Path) -> str:
        assert main(["caption", *map(str, arguments)]) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return say


def caption(*arguments: str | Path) -> None:
    assert main(["caption", *map(str, arguments)]) == 0


def captions_in(folder: Path, extension: str = ".txt") -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob(f"*{extension}"))}


def write_data_toml(tmp_path: Path, general: str = "", **subsets: str) -> Path:
    """Write a data.toml whose subsets are folders, each with keys of its own."""
    tables = "".join(
        f'[[datasets.subsets]]\nimage_dir = "{tmp_path / folder}"\n{keys}\n' for folder, keys in subsets.items()
    )
    file = tmp_path / "data.toml"
    file.write_text(f"[general]\nresolution = 64\n{general}\n[[datasets]]\n{tables}", encoding="utf-8")
    return file


# What is written


@pytest.mark.parametrize("kind", SAVED_BY)
def test_each_picture_gets_a_caption_of_its_own_between_prefix_and_suffix(
    saved: Path, pictures: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    caption(pictures, "--model", saved / kind, "--prefix", "tjtoy toy,", "--suffix", ", film grain")

    written, said = captions_in(pictures), capsys.readouterr().out
    assert list(written) == ["1.txt", "2.txt", "3.txt", "4.txt"]
    assert len(set(written.values())) > 1
    for name, text in written.items():
        assert text.startswith("tjtoy toy, ")
        assert text.endswith(", film grain\n")
        words = text.removeprefix("tjtoy toy, ").removesuffix(", film grain\n")
        assert words == " ".join(words.split()) != ""
        assert "<" not in words
        assert f"wrote {pictures / name}: {text}" in said


@pytest.mark.parametrize("kind", SAVED_BY)
def test_a_caption_does_not_depend_on_the_batch_that_its_picture_is_in(saved: Path, pictures: Path, kind: str) -> None:
    found = []
    for size in ("1", "3", "8"):
        caption(pictures, "--model", saved / kind, "--batch_size", size, "--overwrite")
        found.append(captions_in(pictures))
    assert len(set(found[0].values())) > 1
    assert found[0] == found[1] == found[2]


def test_a_caption_has_at_most_as_many_tokens_as_asked_for(blip: Path, pictures: Path) -> None:
    caption(pictures, "--model", blip)
    assert max(len(text.split()) for text in captions_in(pictures).values()) > 2
    caption(pictures, "--model", blip, "--max_new_tokens", "2", "--overwrite")
    assert max(len(text.split()) for text in captions_in(pictures).values()) <= 2


def test_a_folders_captions_end_as_asked_for(blip: Path, pictures: Path) -> None:
    caption(pictures, "--model", blip, "--extension", ".caption")
    assert len(captions_in(pictures, ".caption")) == 4
    assert captions_in(pictures) == {}


def test_a_picture_of_which_the_model_says_nothing_gets_no_file(
    blip: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Captioner, "caption", lambda *_: ["a toy", "", "a car", "a desk"])
    caption(pictures, "--model", blip)
    assert captions_in(pictures) == {"1.txt": "a toy\n", "3.txt": "a car\n", "4.txt": "a desk\n"}
    assert f"{pictures / '2.jpg'}: the model says nothing about it" in capsys.readouterr().out


def test_a_picture_is_seen_upright_as_in_training(blip: Path, tmp_path: Path) -> None:
    upright = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    for name in ("stored_upright", "turned_by_exif"):
        (tmp_path / name).mkdir()
    upright.save(tmp_path / "stored_upright/1.png")
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turn it clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned_by_exif/1.png", exif=orientation)
    for name in ("stored_upright", "turned_by_exif"):
        caption(tmp_path / name, "--model", blip)
    assert captions_in(tmp_path / "stored_upright") == captions_in(tmp_path / "turned_by_exif")


def test_a_model_is_found_by_its_name_in_the_models_folder(blip: Path, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "models/captioners/blip-large"
    shutil.copytree(blip, folder)
    # The published files are of an older form: this file has another name there, and these others are missing.
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]), encoding="utf-8")
    for name in ("processor_config.json", "generation_config.json", "vocab.txt"):
        (folder / name).unlink()
    caption(pictures)
    found = captions_in(pictures)
    caption(pictures, "--model", blip, "--overwrite")
    assert captions_in(pictures) == found


# What is there already


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_a_caption_that_is_there_is_replaced_only_when_asked(
    blip: Path, pictures: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (pictures / "2.txt").write_text("my own words\n", encoding="utf-8")
    caption(pictures, "--model", blip, *flags)
    written, said = captions_in(pictures), capsys.readouterr().out
    assert len(written) == 4
    assert (written["2.txt"] == "my own words\n") == (not flags)
    assert ("left 1 caption files as they were" in said) == (not flags)


@pytest.mark.usefixtures("_no_model_is_loaded")
def test_with_every_caption_there_no_model_is_needed(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3, 4):
        (pictures / f"{number}.txt").write_text("my own words\n", encoding="utf-8")
    before = {file: file.stat().st_mtime_ns for file in pictures.iterdir()}
    caption(pictures)
    assert capsys.readouterr().out == "left 4 caption files as they were (--overwrite writes them anew)\n"
    assert {file: file.stat().st_mtime_ns for file in pictures.iterdir()} == before


def test_a_run_that_broke_off_goes_on_where_it_was(blip: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says, calls = Captioner.caption, []

    def break_off(self: Captioner, *arguments: object) -> list[str]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return says(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Captioner, "caption", break_off)
        assert main(["caption", str(pictures), "--model", str(blip), "--batch_size", "2"]) == 75
    assert list(captions_in(pictures)) == ["1.txt", "2.txt"]
    caption(pictures, "--model", blip)
    assert len(captions_in(pictures)) == 4


# data.toml


def test_every_concept_of_a_data_toml_is_captioned_with_its_own_ending_and_class_tokens(
    blip: Path, pictures: Path, tmp_path: Path, make_concept: Callable[..., Path]
) -> None:
    card = make_concept("card", [(32, 32)])
    others = make_concept("others", [(32, 32)])
    data = write_data_toml(
        tmp_path,
        'caption_extension = ".words"',
        toy='class_tokens = "tjtoy toy"',
        card='class_tokens = "sparkgpu gpu"\ncaption_extension = ".txt"',
        others='class_tokens = "toy"\nis_reg = true',
    )
    caption(data, "--model", blip, "--prefix", "[trigger],", "--suffix", "that is a [trigger]")

    toys, cards = captions_in(pictures, ".words"), captions_in(card)
    assert list(toys) == ["1.words", "2.words", "3.words", "4.words"]
    assert all(text.startswith("tjtoy toy, ") for text in toys.values())
    assert all(text.endswith(" that is a tjtoy toy\n") for text in toys.values())
    assert cards["1.txt"].startswith("sparkgpu gpu, ")
    assert [file.name for file in others.iterdir()] == ["1.png"]
    assert captions_in(pictures) == captions_in(card, ".words") == {}


def test_a_folder_that_is_trained_at_two_sizes_is_captioned_once(
    blip: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data_toml(tmp_path, toy='class_tokens = "tjtoy toy"\ncaption_extension = ".txt"')
    again = (
        f'[[datasets]]\nresolution = 128\n[[datasets.subsets]]\nimage_dir = "{pictures}"\ncaption_extension = ".txt"'
    )
    data.write_text(data.read_text(encoding="utf-8") + again, encoding="utf-8")
    caption(data, "--model", blip)
    assert capsys.readouterr().out.count("wrote ") == 4


# What is refused, before a model is loaded


def test_everything_that_stands_in_the_way_is_said_at_once(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, make_concept: Callable[..., Path]
) -> None:
    Image.new("RGB", (32, 32)).save(pictures / "1.jpg")
    (pictures / "5.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    locked = make_concept("locked", [(32, 32)])
    data = write_data_toml(tmp_path, toy='class_tokens = "tjtoy toy"', empty="", locked='class_tokens = "tjkey key"')
    locked.chmod(0o500)
    try:
        said = refused(data, "--prefix", "[trigger]", "--extension", ".txt")
    finally:
        locked.chmod(0o700)

    assert "1.jpg, 1.png share one name, and so one caption file" in said
    assert f"{pictures / '5.png'}: cannot be read as a picture" in said
    assert f"no pictures in '{tmp_path / 'empty'}'" in said
    assert "no class_tokens for [trigger]" in said
    assert "--extension: .txt is asked for" in said
    assert "Run `fluxbooth download --captioner blip-large`" in said
    assert str(tmp_path / "models/captioners/blip-large/model.safetensors") in said
    if os.getuid():  # root may write anywhere
        assert "may not be written to" in said
    assert [file for file in tmp_path.rglob("*") if file.suffix in (".txt", ".caption")] == []


def test_a_trigger_for_a_folder_is_refused(refused: Callable[..., str], pictures: Path, blip: Path) -> None:
    assert "a folder has none" in refused(pictures, "--model", blip, "--suffix", "by [trigger]")


def test_two_class_tokens_for_the_pictures_of_one_folder_are_refused(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, blip: Path
) -> None:
    data = write_data_toml(tmp_path, toy='class_tokens = "tjtoy toy"')
    again = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{pictures}"\nclass_tokens = "other toy"\n'
    data.write_text(data.read_text(encoding="utf-8") + again, encoding="utf-8")
    assert "other class_tokens" in refused(data, "--model", blip, "--prefix", "[trigger]")


def test_captions_never_take_the_place_of_pictures(refused: Callable[..., str], pictures: Path, blip: Path) -> None:
    assert "would take the place of pictures" in refused(
        pictures, "--model", blip, "--extension", ".PNG", "--overwrite"
    )


def test_a_source_that_is_not_there_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path / 'nothing'}: is not there" in refused(tmp_path / "nothing")


def test_only_regularization_pictures_are_refused(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, blip: Path
) -> None:
    assert pictures.is_dir()
    assert "only regularization pictures" in refused(
        write_data_toml(tmp_path, toy='class_tokens = "toy"\nis_reg = true'), "--model", blip
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "config.json: cannot be read: No such file"),
        ("{", "config.json: cannot be read"),
        ('{"model_type": "clip", "architectures": ["CLIPModel"]}', "a model of the kind 'clip'"),
        ('{"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}', "BlipForQuestionAnswering"),
        (
            '{"model_type": "florence2", "auto_map": {"AutoConfig": "code.Config"}}',
            "code of its own, which is never run",
        ),
        ('{"model_type": "blip"}', "no *.safetensors in it"),
    ],
)
def test_a_folder_without_a_captioning_model_is_refused(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, config: str | None, words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config, encoding="utf-8")
    assert words in refused(pictures, "--model", folder)


def test_a_model_without_its_words_is_refused(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, blip: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(blip, folder)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    assert "no tokenizer.json in it" in refused(pictures, "--model", folder)


def test_a_misspelt_model_is_answered_with_the_nearest(refused: Callable[..., str], pictures: Path) -> None:
    assert "Did you mean 'florence-2'?" in refused(pictures, "--model", "florence2")


@pytest.mark.parametrize("damage", ["one tensor less", "cut short", "no preparation"])
def test_a_model_that_is_not_whole_is_refused(
    blip: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(blip, folder)
    weights = folder / "model.safetensors"
    if damage == "one tensor less":
        tensors = load_file(weights)
        del tensors["vision_model.post_layernorm.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        (folder / "processor_config.json").unlink()

    assert main(["caption", str(pictures), "--model", str(folder)]) == 1

    said = capsys.readouterr().err
    assert f"{folder}: cannot be loaded as a blip model: " in said
    assert "Traceback" not in said
    assert captions_in(pictures) == {}


def test_an_ending_without_its_dot_is_not_understood(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["caption", str(pictures), "--extension", "txt"])
    assert stopped.value.code == 2
    assert "txt is not an ending such as .txt" in capsys.readouterr().err


# Where the models come from


@pytest.mark.parametrize("name", CAPTIONER_FILES)
def test_download_asks_for_a_captioning_model_where_it_is_published(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(hub_module, "_FIRST_PAUSE", 0.001)
    assert main(["download", "--captioner", name]) == 1
    assert f"{CAPTIONER_FILES[name][0].repository}: the hub cannot be reached" in capsys.readouterr().err
    for file in CAPTIONER_FILES[name]:
        (tmp_path / "models" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / file.path).touch()
    assert main(["download", "--captioner", name]) == 0
    assert "nothing to download" in capsys.readouterr().out
