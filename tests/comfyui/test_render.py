"""A workflow drawn by a running ComfyUI: changed, queued, followed, fetched; and every refusal with its reason."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host.local_hub import local_hub

from comfyui.local_comfyui import PICTURE, Ending, LocalComfyUI, local_comfyui
from fluxbooth.comfyui import render as render_module
from fluxbooth.comfyui.client import NoComfyUIError
from fluxbooth.comfyui.render import Changes, changed, read_prompt, render
from fluxbooth.errors import UserError

API = Path(__file__).parent.parent.parent / "workflows/api"


@pytest.fixture
def comfyui() -> Iterator[LocalComfyUI]:
    with local_comfyui() as served:
        yield served


@pytest.fixture
def prompt() -> dict[str, Any]:
    return read_prompt(API / "finetuned_flux.json")


def test_the_pictures_come_and_the_steps_are_told(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    paths = render(comfyui.url, prompt, tmp_path, lambda done, all_of_them: steps.append((done, all_of_them)))
    assert paths == [tmp_path / "finetuned_00001_.png"], "what was saved, and no preview"
    assert paths[0].read_bytes() == PICTURE
    assert steps == [(1, 3), (2, 3), (3, 3)], "this prompt's and nobody else's"
    assert comfyui.prompts == [prompt]


def test_a_picture_that_comfyui_has_drawn_before_comes_too(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path
) -> None:
    comfyui.ending = "cached"
    assert render(comfyui.url, prompt, tmp_path)[0].read_bytes() == PICTURE


def test_prompt_lora_and_seed_are_changed_and_nothing_else(prompt: dict[str, Any]) -> None:
    other = changed(prompt, Changes("mokka dog in space", ("mokka.safetensors", 0.8), seed=7), "finetuned_flux")
    values = {node["class_type"]: node["inputs"] for node in other.values()}
    assert values["CLIPTextEncode"]["text"] == "mokka dog in space"
    assert values["LoraLoader"]["lora_name"] == "mokka.safetensors"
    assert values["LoraLoader"]["strength_model"] == values["LoraLoader"]["strength_clip"] == 0.8
    assert values["RandomNoise"]["noise_seed"] == 7
    assert changed(prompt, Changes(), "finetuned_flux") == prompt
    assert prompt == read_prompt(API / "finetuned_flux.json"), "the workflow itself stays as it is"


def test_a_change_that_no_node_takes_is_said() -> None:
    base = read_prompt(API / "base_flux.json")
    with pytest.raises(UserError, match="base_flux: 0 nodes could take the LoRA"):
        changed(base, Changes(lora=("mokka.safetensors", 1.0)), "base_flux")


NOT_IN_LIST = {
    "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""},
    "node_errors": {
        "4": {
            "errors": [
                {
                    "type": "value_not_in_list",
                    "message": "Value not in list",
                    "details": "lora_name: 'nosuch.safetensors' not in [a very long list]",
                    "extra_info": {"input_config": [[f"{letter}.safetensors" for letter in "abcdefghij"], {}]},
                }
            ],
            "dependent_outputs": ["15"],
            "class_type": "LoraLoader",
        },
        "12": {
            "errors": [
                {"type": "value_smaller_than_min", "message": "Value 8 smaller than min of 16", "details": "width"}
            ],
            "dependent_outputs": ["15"],
            "class_type": "EmptyLatentImage",
        },
    },
}
UNKNOWN_NODE = {
    "error": {
        "type": "invalid_prompt",
        "message": "Cannot execute because node NoSuchNode does not exist.",
        "details": "Node ID '#92'",
    },
    "node_errors": {},
}


def refusal_of(comfyui: LocalComfyUI, prompt: dict[str, Any], out: Path) -> str:
    with pytest.raises(UserError) as raised:
        render(comfyui.url, prompt, out)
    return str(raised.value)


def test_every_node_that_is_refused_is_named_with_the_reason(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path
) -> None:
    comfyui.refusal = NOT_IN_LIST
    lora, size = refusal_of(comfyui, prompt, tmp_path).splitlines()
    assert lora.startswith(
        "node 4 (LoRA): Value not in list: lora_name: 'nosuch.safetensors'; there are: a.safetensors"
    )
    assert lora.rstrip(".").endswith("h.safetensors, and 2 more")
    assert size == "node 12 (Size): Value 8 smaller than min of 16: width."
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_comfyui_does_not_have_is_named(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path
) -> None:
    comfyui.refusal = UNKNOWN_NODE
    said = refusal_of(comfyui, prompt, tmp_path)
    assert "Cannot execute because node NoSuchNode does not exist. Node ID '#92'" in said


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("error", "node 4 (LoRA): failed: Error while deserializing header."),
        ("interrupted", "ComfyUI: somebody stopped the drawing."),
        ("gone", "ComfyUI: ended before the picture was done."),
    ],
)
def test_a_drawing_that_does_not_end_well_says_why(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path, ending: Ending, said: str
) -> None:
    comfyui.ending = ending
    assert said in refusal_of(comfyui, prompt, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lora_that_was_not_taken_whole_is_an_error_although_comfyui_says_success(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path
) -> None:
    """The earlier prompt's line in the log is not held against this one."""
    comfyui.logs_while_drawing = ["lora key not loaded: text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight\n"] * 3
    said = refusal_of(comfyui, prompt, tmp_path)
    assert "ComfyUI did not take 3 keys of a LoRA, the first: lora key not loaded: text_encoder.encoder" in said
    assert (tmp_path / "finetuned_00001_.png").is_file(), "to be looked at all the same"


def test_where_nobody_listens_the_way_to_start_it_is_shown(prompt: dict[str, Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        url = f"http://127.0.0.1:{closing.getsockname()[1]}"
    with pytest.raises(UserError, match="docker compose up comfyui"):
        render(url, prompt, tmp_path)


@pytest.mark.parametrize("url", ["comfyui:8188", "localhost", "http://", "ftp://127.0.0.1"])
def test_what_is_no_address_is_said(prompt: dict[str, Any], tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        render(url, prompt, tmp_path)


def test_something_that_is_not_comfyui_is_named(prompt: dict[str, Any], tmp_path: Path) -> None:
    with local_hub() as other, pytest.raises(UserError, match="Is this ComfyUI"):
        render(other.url, prompt, tmp_path)


def test_a_comfyui_that_goes_away_after_the_picture_is_said(
    comfyui: LocalComfyUI, prompt: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(url: str, number: str) -> list[dict[str, str]]:
        raise NoComfyUIError(url)

    monkeypatch.setattr(render_module, "_pictures_of", gone)
    assert "no ComfyUI answers" in refusal_of(comfyui, prompt, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        (json.dumps({"nodes": [], "links": []}), "Export \\(API\\)"),
        ("[]", "Export"),
        (None, "the file is missing"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "workflow.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_prompt(tmp_path / "workflow.json")
