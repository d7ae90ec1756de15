"""Prompts of sample pictures: kohya's lines and files, and what is said of a line that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fluxbooth.config.prompts import SamplePrompt, read_prompts
from fluxbooth.errors import Problems, UserError


def read(source: str | Sequence[str]) -> tuple[list[SamplePrompt], list[str]]:
    problems = Problems()
    result = read_prompts(source, problems)
    problems.raise_if_any()
    return result


def complaint(source: str | Sequence[str]) -> str:
    with pytest.raises(UserError) as raised:
        read(source)
    return str(raised.value)


def text_file(folder: Path, text: str, name: str = "prompts.txt") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_file_has_one_prompt_a_line_with_kohyas_options(tmp_path: Path) -> None:
    file = text_file(
        tmp_path,
        "# the toy\n\ntjtoy toy on a beach --w 768 --h 1024 --d 7 --s 30 --g 4.5\r\na gpu, one-of-a-kind -- blue\n",
    )
    assert read(file) == (
        [
            SamplePrompt(
                prompt="tjtoy toy on a beach", width=768, height=1024, seed=7, sample_steps=30, guidance_scale=4.5
            ),
            SamplePrompt(prompt="a gpu, one-of-a-kind -- blue"),
        ],
        [],
    )


def test_a_list_holds_the_same_lines_and_one_file_name_is_that_file(tmp_path: Path) -> None:
    assert [one.prompt for one in read(["a toy --D 1", "# not this", "a gpu"])[0]] == ["a toy", "a gpu"]
    assert [one.prompt for one in read([text_file(tmp_path, "from the file\n")])[0]] == ["from the file"]
    assert "no prompts can be read" in complaint(["nowhere.txt"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'prompts = ["a toy --d 3", {prompt = "a gpu", width = 64}]'),
        ("a.toml", '[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = "a gpu"\n'),
        ("a.json", '[{"prompt": "a gpu", "width": 64}]'),
    ],
)
def test_toml_and_json_have_tables_with_kohyas_keys(tmp_path: Path, name: str, text: str) -> None:
    assert read(text_file(tmp_path, text, name))[0][-1] == SamplePrompt(prompt="a gpu", width=64)


def test_what_flux_has_no_use_for_is_said_once(tmp_path: Path) -> None:
    file = text_file(tmp_path, "a toy --n ugly --l 7\na gpu --l 1\na cat --l 3 --n bad\n")
    prompts, lines = read(file)
    assert [one.prompt for one in prompts] == ["a toy", "a gpu", "a cat"]
    assert lines == [
        f"--l (scale) has no effect ({file}, line 1 and 1 more): FLUX.1-dev has no classifier-free guidance, "
        "--g is its own",
        f"--n (negative_prompt) has no effect ({file}, line 1 and 1 more): FLUX.1-dev has no negative prompt",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a toy --w 100", "line 2, --w: width is 100. Allowed: a multiple of 16"),
        ("a toy --h big", 'line 2: --h is "big". Allowed: a whole number.'),
        ("a toy --s 0", "line 2, --s: sample_steps is 0. Allowed: greater than or equal to 1."),
        ("a toy --d -1", "line 2, --d: seed is -1. Allowed: greater than or equal to 0."),
        ("a toy --g nan", "line 2, --g: guidance_scale is"),
        ("a toy --q 3", "line 2: unknown option '--q'. Allowed: --w (width), --h (height)"),
        ("--w 64", "line 2: prompt is"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    file = text_file(tmp_path, f"a toy\n{line}\n")
    assert f"{file}, {said}" in complaint(file)


def test_every_wrong_line_is_named_at_once(tmp_path: Path) -> None:
    said = complaint(text_file(tmp_path, "a --w 1\nb --w 2\n"))
    assert "line 1, --w" in said
    assert "line 2, --w" in said


def test_a_file_that_is_missing_or_empty_or_a_prompt_in_its_place_is_refused(tmp_path: Path) -> None:
    assert "sample_prompts, tjtoy toy on a beach: no prompts can be read" in complaint("tjtoy toy on a beach")
    assert "no prompt in it" in complaint(text_file(tmp_path, "# nothing yet\n"))
    assert "is a folder" in complaint(str(tmp_path))
    assert "is a folder" in complaint((str(tmp_path),)), "as a flag of one value gives it"
    assert "not JSON" in complaint(text_file(tmp_path, "[", "a.json"))
    assert "no list of prompts" in complaint(text_file(tmp_path, "a = 1", "a.toml"))
    assert "unknown key 'witdh'" in complaint(text_file(tmp_path, '[{"prompt": "a", "witdh": 64}]', "a.json"))
