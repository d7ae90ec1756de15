"""The workflow for FLUX.1-dev in both of ComfyUI's forms: what its page opens, and what POST /prompt takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxbooth.host.files import write_text

Value = str | int | float
Place = tuple[int, int]
"""x and y on the page's canvas, in pixels."""

# A node's picture on the canvas: a title bar, a row for each input or output, a row for each widget.
_TITLE, _ROW, _WIDGET, _PADDING = 30, 20, 24, 10
_GAP = 30
_GROUP_MARGIN, _GROUP_TITLE = 15, 40


@dataclass(frozen=True)
class _Kind:
    """What ComfyUI knows of a node class: names of its widgets, of its inputs, and types of both ends."""

    widgets: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    seed: bool = False
    """The page adds a widget behind a seed: what to do with it after a picture."""


_KINDS = {
    "CheckpointLoaderSimple": _Kind(("ckpt_name",), {}, ("MODEL", "CLIP", "VAE")),
    "DualCLIPLoader": _Kind(("clip_name1", "clip_name2", "type", "device"), {}, ("CLIP",)),
    "VAELoader": _Kind(("vae_name",), {}, ("VAE",)),
    "LoraLoader": _Kind(
        ("lora_name", "strength_model", "strength_clip"), {"model": "MODEL", "clip": "CLIP"}, ("MODEL", "CLIP")
    ),
    "CLIPTextEncode": _Kind(("text",), {"clip": "CLIP"}, ("CONDITIONING",)),
    "FluxGuidance": _Kind(("guidance",), {"conditioning": "CONDITIONING"}, ("CONDITIONING",)),
    "ModelSamplingFlux": _Kind(("max_shift", "base_shift", "width", "height"), {"model": "MODEL"}, ("MODEL",)),
    "BasicGuider": _Kind((), {"model": "MODEL", "conditioning": "CONDITIONING"}, ("GUIDER",)),
    "RandomNoise": _Kind(("noise_seed",), {}, ("NOISE",), seed=True),
    "KSamplerSelect": _Kind(("sampler_name",), {}, ("SAMPLER",)),
    "BasicScheduler": _Kind(("scheduler", "steps", "denoise"), {"model": "MODEL"}, ("SIGMAS",)),
    "EmptyLatentImage": _Kind(("width", "height", "batch_size"), {}, ("LATENT",)),
    "SamplerCustomAdvanced": _Kind(
        (),
        {"noise": "NOISE", "guider": "GUIDER", "sampler": "SAMPLER", "sigmas": "SIGMAS", "latent_image": "LATENT"},
        ("LATENT", "LATENT"),
    ),
    "VAEDecode": _Kind((), {"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": _Kind(("filename_prefix",), {"images": "IMAGE"}, ()),
}
_OUTPUT_NAMES = {"SamplerCustomAdvanced": ("output", "denoised_output")}
_INPUT_TYPES = {int: "INT", float: "FLOAT", str: "STRING"}


@dataclass(frozen=True)
class Node:
    """A node: its class, the values of its widgets, and which node's which output each input takes."""

    number: int
    kind: str
    title: str
    widgets: tuple[Value, ...] = ()
    inputs: tuple[tuple[int, int], ...] = ()
    """(number, output) for each input in turn."""
    width: int = 300
    extra_height: int = 0


@dataclass(frozen=True)
class Column:
    """Nodes that stand below each other on the page in a group with a title and a note."""

    title: str
    note: str
    nodes: tuple[Node, ...]
    width: int = 300
    note_height: int = 130


@dataclass(frozen=True)
class Workflow:
    """A graph that reads from left to right, column by column."""

    columns: Sequence[Column]

    def api(self) -> dict[str, Any]:
        """Return what POST /prompt takes as "prompt"."""
        return {str(node.number): _as_api(node) for node in self._nodes()}

    def editor(self) -> dict[str, Any]:
        """Return what ComfyUI's page opens and saves."""
        links = _links_of(self._nodes())
        shown: list[dict[str, Any]] = []
        groups: list[dict[str, Any]] = []
        x = 0
        number = max(node.number for node in self._nodes())
        for column in self.columns:
            number += 1
            y = 0
            shown.append(_note(number, column, (x, y)))
            y += column.note_height + _TITLE + _GAP
            for node in column.nodes:
                shown.append(_as_editor(node, (x, y), column.width, links))
                y += _height(node) + _TITLE + _GAP
            groups.append(_group(len(groups) + 1, column, (x, y)))
            x += column.width + 3 * _GAP
        return {
            "last_node_id": number,
            "last_link_id": len(links),
            "nodes": [{**node, "order": order} for order, node in enumerate(shown)],
            "links": links,
            "groups": groups,
            "config": {},
            # Below a scale of 0.6 the page hides all text.
            "extra": {"ds": {"scale": 0.75, "offset": [60, 110]}},
            "version": 0.4,
        }

    def _nodes(self) -> list[Node]:
        return [node for column in self.columns for node in column.nodes]


def flux_workflow(
    prompt: str,
    *,
    lora: str | None = None,
    strength: float = 1.0,
    width: int = 1024,
    height: int = 1024,
    seed: int = 25,
    filename_prefix: str = "fluxbooth/base",
    about_lora: str = "",
) -> Workflow:
    """Return the playbook's graph: three loaders, perhaps a LoRA, and FLUX's own sampler nodes at guidance 3.5.

    Args:
        lora: name of a file in models/loras.
        strength: of the LoRA; 1 is as trained.
        width, height: pixels.
        filename_prefix: folder and beginning of the pictures' names below ComfyUI's output folder.
        about_lora: what the note beside the LoRA says, for instance its trigger words.
    """
    checkpoint, encoders, vae, loader, text, guidance, shift, guider = 1, 2, 3, 4, 5, 6, 7, 8
    noise, sampler, scheduler, latent, sampling, decode, save = 9, 10, 11, 12, 13, 14, 15
    model, clip = ((loader, 0), (loader, 1)) if lora else ((checkpoint, 0), (encoders, 0))
    files = [
        Node(checkpoint, "CheckpointLoaderSimple", "FLUX.1-dev", ("flux1-dev.safetensors",)),
        Node(
            encoders,
            "DualCLIPLoader",
            "Text encoders",
            ("t5xxl_fp16.safetensors", "clip_l.safetensors", "flux", "default"),
        ),
        Node(vae, "VAELoader", "VAE", ("ae.safetensors",)),
    ]
    columns = [
        Column(
            "1 Files",
            "The base weights that `docker compose run --rm download --model flux-dev` fetches into `models/`.",
            tuple(files),
            note_height=90,
        )
    ]
    if lora:
        taken = ((checkpoint, 0), (encoders, 0))
        columns.append(
            Column(
                "2 Your LoRA",
                about_lora
                or "What was trained, from `models/loras`. Press r after a training to see new files. "
                "Lower both strengths where pictures look like the training pictures.",
                (Node(loader, "LoraLoader", "LoRA", (lora, strength, strength), taken),),
                note_height=150,
            )
        )
    number = len(columns) + 1
    columns += [
        Column(
            f"{number} What to draw",
            "Class tokens as in data.toml, `tjtoy toy` for instance, then anything else."
            if lora
            else "In plain words.",
            (
                Node(text, "CLIPTextEncode", "Prompt", (prompt,), (clip,), extra_height=120),
                Node(guidance, "FluxGuidance", "Guidance", (3.5,), ((text, 0),)),
                Node(latent, "EmptyLatentImage", "Size", (width, height, 1)),
                Node(noise, "RandomNoise", "Seed", (seed,)),
            ),
            width=400,
            note_height=90,
        ),
        Column(
            f"{number + 1} How to draw",
            "Width and height here are the picture's, too: FLUX spends more steps on the layout of large pictures.",
            (
                Node(shift, "ModelSamplingFlux", "Shift", (1.15, 0.5, width, height), (model,)),
                Node(guider, "BasicGuider", "Guider", (), ((shift, 0), (guidance, 0))),
                Node(sampler, "KSamplerSelect", "Sampler", ("dpmpp_2m",)),
                Node(scheduler, "BasicScheduler", "Steps", ("sgm_uniform", 50, 1.0), ((shift, 0),)),
            ),
            note_height=90,
        ),
        Column(
            f"{number + 2} The picture",
            "Lands in `output/`, with this workflow inside the file.",
            (
                Node(
                    sampling,
                    "SamplerCustomAdvanced",
                    "Draw",
                    (),
                    ((noise, 0), (guider, 0), (sampler, 0), (scheduler, 0), (latent, 0)),
                ),
                Node(decode, "VAEDecode", "Decode", (), ((sampling, 0), (vae, 0))),
                Node(save, "SaveImage", "Save", (filename_prefix,), ((decode, 0),), extra_height=380),
            ),
            width=420,
            note_height=90,
        ),
    ]
    return Workflow(columns)


def run_workflow(
    lora: str, class_tokens: Sequence[str], size: tuple[int, int], *, name: str = "", strength: float = 1.0
) -> Workflow:
    """Return the workflow of a run.

    Args:
        lora: the LoRA's file name.
        class_tokens: what the concepts are called; the prompt has all of them.
        size: width and height in pixels that the picture begins with.
        name: of the run, where the LoRA's file has another.
        strength: of the LoRA.
    """
    return flux_workflow(
        f"{' next to '.join(class_tokens)} on a beach",
        lora=lora,
        strength=strength,
        width=size[0],
        height=size[1],
        filename_prefix=f"fluxbooth/{name or Path(lora).stem}",
        about_lora=f"Trained words: {', '.join(f'`{tokens}`' for tokens in class_tokens)}. Lower both strengths where "
        "pictures look like the training pictures.",
    )


def write_run_workflow(
    folder: Path,
    lora: str,
    class_tokens: Sequence[str],
    size: tuple[int, int],
    *,
    name: str = "",
    strength: float = 1.0,
) -> Path:
    """Write the workflow of a run as folder/NAME.json, for ComfyUI's sidebar; return its path.

    Args:
        lora, class_tokens, size, name, strength: as `run_workflow` takes them.
    """
    name = name or Path(lora).stem
    workflow = run_workflow(lora, class_tokens, size, name=name, strength=strength)
    path = folder / f"{name}.json"
    write_text(path, json.dumps(workflow.editor(), indent=2) + "\n")
    return path


def _as_api(node: Node) -> dict[str, Any]:
    kind = _KINDS[node.kind]
    links = {name: [str(number), output] for name, (number, output) in zip(kind.inputs, node.inputs, strict=True)}
    widgets = dict(zip(kind.widgets, node.widgets, strict=True))
    return {"class_type": node.kind, "inputs": {**widgets, **links}, "_meta": {"title": node.title}}


def _links_of(nodes: Sequence[Node]) -> list[list[Any]]:
    """Number the links of a graph: [number, from node, its output, to node, its input, type]."""
    links: list[list[Any]] = []
    for node in nodes:
        for place, (source, type_) in enumerate(zip(node.inputs, _KINDS[node.kind].inputs.values(), strict=True)):
            links.append([len(links) + 1, *source, node.number, place, type_])
    return links


def _as_editor(node: Node, place: Place, width: int, links: Sequence[Sequence[Any]]) -> dict[str, Any]:
    kind = _KINDS[node.kind]
    names = _OUTPUT_NAMES.get(node.kind, kind.outputs)
    taken = {link[4]: link[0] for link in links if link[3] == node.number}
    given: dict[int, list[int]] = {output: [] for output in range(len(kind.outputs))}
    for link in links:
        if link[1] == node.number:
            given[link[2]].append(link[0])
    return {
        "id": node.number,
        "type": node.kind,
        "pos": list(place),
        "size": [width, _height(node)],
        "flags": {},
        "mode": 0,
        "title": node.title,
        "inputs": [
            {"name": name, "type": type_, "link": taken[slot]} for slot, (name, type_) in enumerate(kind.inputs.items())
        ]
        + [
            {"name": name, "type": _INPUT_TYPES[type(value)], "widget": {"name": name}, "link": None}
            for name, value in zip(kind.widgets, node.widgets, strict=True)
        ],
        "outputs": [
            {"name": name, "type": type_, "links": given[output]}
            for output, (name, type_) in enumerate(zip(names, kind.outputs, strict=True))
        ],
        "properties": {"Node name for S&R": node.kind},
        "widgets_values": [*node.widgets, *(["fixed"] if kind.seed else [])],
    }


def _height(node: Node) -> int:
    kind = _KINDS[node.kind]
    widgets = len(kind.widgets) + kind.seed
    return _ROW * max(len(kind.inputs), len(kind.outputs)) + _WIDGET * widgets + _PADDING + node.extra_height


def _note(number: int, column: Column, place: Place) -> dict[str, Any]:
    """A text on the page that takes no part in the work."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(place),
        "size": [column.width, column.note_height],
        "flags": {},
        "mode": 0,
        "title": "Note",
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [column.note],
        "color": "#432",
        "bgcolor": "#653",
    }


def _group(number: int, column: Column, end: Place) -> dict[str, Any]:
    x, bottom = end
    top = -_TITLE - _GROUP_TITLE - _GROUP_MARGIN
    return {
        "id": number,
        "title": column.title,
        "bounding": [x - _GROUP_MARGIN, top, column.width + 2 * _GROUP_MARGIN, bottom - _GAP + _GROUP_MARGIN - top],
        "color": "#3f789e",
        "font_size": 24,
        "flags": {},
    }


def nodes_of_class(prompt: Mapping[str, Any], *classes: str) -> Iterator[dict[str, Any]]:
    """Yield the nodes of some classes in what POST /prompt takes."""
    yield from (node for node in prompt.values() if node.get("class_type") in classes)
