"""The bundled workflows: both forms are one graph, and every node, value and link is what ComfyUI allows.

Held against the definitions that a real ComfyUI 0.3.64 gave at GET /object_info, by the rules of its page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxbooth.comfyui.workflow import Workflow, flux_workflow, nodes_of_class, write_run_workflow

REPOSITORY = Path(__file__).parent.parent.parent
DEFINITIONS: dict[str, Any] = json.loads(Path(__file__).with_name("node_definitions.json").read_text(encoding="utf-8"))
ON_THE_PAGE_ONLY = "MarkdownNote"
LINKED_TYPES = {"MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "IMAGE", "NOISE", "GUIDER", "SAMPLER", "SIGMAS"}
TYPES: dict[str, type | tuple[type, ...]] = {"INT": int, "FLOAT": (int, float), "STRING": str}
NAMES = ("base_flux", "finetuned_flux")


def bundled(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A bundled workflow for the page and for POST /prompt."""
    editor, api = (
        json.loads((REPOSITORY / "workflows" / path).read_text(encoding="utf-8"))
        for path in (f"{name}.json", f"api/{name}.json")
    )
    return editor, api


def inputs_of(kind: str) -> dict[str, list[Any]]:
    """A class's inputs in the order in which the page lists its widgets: [type or choices, limits]."""
    definition = DEFINITIONS[kind]
    return {
        name: definition["input"][group][name]
        for group in ("required", "optional")
        for name in definition["input_order"].get(group, [])
    }


def is_linked(type_: Any) -> bool:
    return isinstance(type_, str) and type_ in LINKED_TYPES


def as_the_page_exports_it(editor: dict[str, Any]) -> dict[str, Any]:
    """What the page sends to POST /prompt for a workflow that it has open."""
    links = {link[0]: link for link in editor["links"]}
    prompt = {}
    for node in editor["nodes"]:
        if node["type"] == ON_THE_PAGE_ONLY:
            continue
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for name, (type_, *limits) in inputs_of(node["type"]).items():
            if is_linked(type_):
                (given,) = (given for given in node["inputs"] if given["name"] == name)
                _, source, output, *_ = links[given["link"]]
                inputs[name] = [str(source), output]
                continue
            inputs[name] = values.pop(0)
            if limits and limits[0].get("control_after_generate"):
                assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
        assert values == [], f"{node['type']} has more values than widgets"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node["title"]}}
    return prompt


def check_values(prompt: dict[str, Any]) -> None:
    """Assert what ComfyUI checks before it queues: every input there, of its type, within its limits."""
    for node in prompt.values():
        inputs = inputs_of(node["class_type"])
        assert node["inputs"].keys() == inputs.keys()
        for name, (type_, *limits) in inputs.items():
            value, limit = node["inputs"][name], limits[0] if limits else {}
            if is_linked(type_):
                source, output = value
                assert DEFINITIONS[prompt[source]["class_type"]]["output"][output] == type_
            elif isinstance(type_, list):
                assert value in type_ or not type_, f"{name}: {value}"  # an empty list: files of this machine
            else:
                assert isinstance(value, TYPES[type_])
                assert limit.get("min", value) <= value <= limit.get("max", value)
    assert any(DEFINITIONS[node["class_type"]]["output_node"] for node in prompt.values())


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_bundled_workflow_are_one_graph(name: str) -> None:
    editor, api = bundled(name)
    assert as_the_page_exports_it(editor) == api


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_would_queue_a_bundled_workflow(name: str) -> None:
    check_values(bundled(name)[1])


def test_the_graph_and_its_values_are_the_playbooks() -> None:
    """The playbook's finetuned_flux.json, but for its prompt, seed and filename."""
    prompt = bundled("finetuned_flux")[1]
    values = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert values["CheckpointLoaderSimple"] == {"ckpt_name": "flux1-dev.safetensors"}
    assert values["LoraLoader"]["lora_name"] == "flux_dreambooth.safetensors"
    assert values["FluxGuidance"]["guidance"] == 3.5
    shift = values["ModelSamplingFlux"]
    assert (shift["max_shift"], shift["base_shift"], shift["width"], shift["height"]) == (1.15, 0.5, 1024, 1024)
    steps = values["BasicScheduler"]
    assert (steps["scheduler"], steps["steps"], steps["denoise"]) == ("sgm_uniform", 50, 1)
    assert values["KSamplerSelect"] == {"sampler_name": "dpmpp_2m"}
    assert "LoraLoader" not in {node["class_type"] for node in bundled("base_flux")[1].values()}


def overlap(one: list[float], other: list[float]) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_newcomer_sees_columns_from_left_to_right_that_do_not_overlap(name: str) -> None:
    editor, _ = bundled(name)
    boxes = [[*node["pos"], *node["size"]] for node in editor["nodes"]]
    for number, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in boxes[:number])
        assert sum(overlap(box, group["bounding"]) for group in editor["groups"]) == 1, "every node in one group"
    assert not any(
        overlap(one["bounding"], other["bounding"])
        for number, one in enumerate(editor["groups"])
        for other in editor["groups"][:number]
    )
    columns = {node["id"]: node["pos"][0] for node in editor["nodes"]}
    assert all(columns[source] <= columns[target] for _, source, _, target, _, _ in editor["links"])
    scale = editor["extra"]["ds"]["scale"]
    assert scale >= 0.6, "below that the page hides all text"
    width = max(group["bounding"][0] + group["bounding"][2] for group in editor["groups"])
    assert width * scale < 1920, "one screen wide"


def test_a_workflow_of_ones_own_run_names_its_file_words_and_size() -> None:
    mine: Workflow = flux_workflow(
        "mokka dog on a beach", lora="mokka.safetensors", strength=0.8, width=768, height=1344, seed=7
    )
    check_values(mine.api())
    assert as_the_page_exports_it(mine.editor()) == mine.api()
    (lora,) = nodes_of_class(mine.api(), "LoraLoader")
    assert lora["inputs"]["lora_name"] == "mokka.safetensors"
    assert lora["inputs"]["strength_model"] == lora["inputs"]["strength_clip"] == 0.8
    for node in nodes_of_class(mine.api(), "EmptyLatentImage", "ModelSamplingFlux"):
        assert (node["inputs"]["width"], node["inputs"]["height"]) == (768, 1344)


def test_a_run_gets_its_workflow_with_its_file_words_and_shape(tmp_path: Path) -> None:
    path = write_run_workflow(tmp_path / "runs", "pets.safetensors", ["mokka dog", "tito cat"], (1344, 768))
    assert path == tmp_path / "runs/pets.json"
    editor = json.loads(path.read_text(encoding="utf-8"))
    prompt = as_the_page_exports_it(editor)
    check_values(prompt)
    values = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert values["LoraLoader"]["lora_name"] == "pets.safetensors"
    assert values["CLIPTextEncode"]["text"] == "mokka dog next to tito cat on a beach"
    assert (values["EmptyLatentImage"]["width"], values["EmptyLatentImage"]["height"]) == (1344, 768)
    assert values["SaveImage"]["filename_prefix"] == "fluxbooth/pets"
    assert values["LoraLoader"]["strength_model"] == 1
    notes = [node["widgets_values"][0] for node in editor["nodes"] if node["type"] == ON_THE_PAGE_ONLY]
    assert any("`mokka dog`, `tito cat`" in note for note in notes)


def test_a_scored_run_draws_with_its_best_file_at_the_recommended_strength(tmp_path: Path) -> None:
    path = write_run_workflow(tmp_path, "pets-best.safetensors", ["mokka dog"], (64, 64), name="pets", strength=0.8)
    assert path == tmp_path / "pets.json"
    nodes = as_the_page_exports_it(json.loads(path.read_text(encoding="utf-8"))).values()
    loader = next(node["inputs"] for node in nodes if node["class_type"] == "LoraLoader")
    assert (loader["lora_name"], loader["strength_model"], loader["strength_clip"]) == (
        "pets-best.safetensors",
        0.8,
        0.8,
    )
