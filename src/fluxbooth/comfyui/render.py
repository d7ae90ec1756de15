"""Draw a workflow with a running ComfyUI: queue it, follow it, fetch its pictures, and see that the LoRA was taken."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from fluxbooth.comfyui.client import NoComfyUIError, pictures_in_queue, request
from fluxbooth.comfyui.workflow import nodes_of_class
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.host.files import written_whole

_TEXT = ("CLIPTextEncode",)
_SEEDS = {"RandomNoise": "noise_seed", "KSampler": "seed"}
_LORAS = ("LoraLoader", "LoraLoaderModelOnly")
_NOT_TAKEN = "lora key not loaded"
_CHOICES_SHOWN = 8


@dataclass(frozen=True)
class Changes:
    """What to draw instead of what the workflow says; None leaves it."""

    prompt: str | None = None
    lora: tuple[str, float] | None = None
    """Name of a file in ComfyUI's loras folder, and its strength."""
    seed: int | None = None


def read_prompt(file: Path) -> dict[str, Any]:
    """Read a workflow in the form that POST /prompt takes.

    Raises:
        UserError: for a file that is missing, no JSON, or in the form that the page saves.
    """
    try:
        prompt = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(Problem("the file is missing", where=str(file))) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(Problem(f"is no JSON: {error}", where=str(file))) from error
    if not isinstance(prompt, dict) or not prompt or not all(_is_node(node) for node in prompt.values()):
        raise UserError(
            Problem(
                "is no workflow in the form that POST /prompt takes",
                where=str(file),
                do="In ComfyUI's page: Workflow, Export (API)",
            )
        )
    return prompt


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)


def changed(prompt: Mapping[str, Any], changes: Changes, where: str) -> dict[str, Any]:
    """Return a workflow with another prompt, LoRA or seed.

    Raises:
        UserError: for every change that no node of the workflow, or more than one, could take.
    """
    copy: dict[str, Any] = json.loads(json.dumps(prompt))
    problems = Problems()

    def only(what: str, *classes: str) -> dict[str, Any]:
        nodes = list(nodes_of_class(copy, *classes))
        if len(nodes) != 1:
            problems.add(
                f"{len(nodes)} nodes could take the {what}", where=where, allowed=f"one {' or '.join(classes)}"
            )
        return nodes[0]["inputs"] if nodes else {}

    if changes.prompt is not None:
        only("prompt", *_TEXT)["text"] = changes.prompt
    if changes.lora is not None:
        inputs = only("LoRA", *_LORAS)
        inputs["lora_name"] = changes.lora[0]
        for name in inputs.keys() & {"strength_model", "strength_clip"}:
            inputs[name] = changes.lora[1]
    if changes.seed is not None:
        seeds = {"noise_seed", "seed"} & only("seed", *_SEEDS).keys()
        for node in nodes_of_class(copy, *_SEEDS):
            node["inputs"].update(dict.fromkeys(seeds, changes.seed))
    problems.raise_if_any()
    return copy


def render(
    url: str, prompt: Mapping[str, Any], out: Path, progress: Callable[[int, int], None] = lambda done, steps: None
) -> list[Path]:
    """Let the ComfyUI at `url` draw a workflow, and save its pictures below `out` under ComfyUI's names.

    Args:
        progress: called with (step, steps) while a sampler runs.

    Raises:
        UserError: when there is no ComfyUI, when it refuses a node or a value, when a node fails, when somebody stops
            it, and when it did not take every key of a LoRA.
    """
    try:
        pictures_in_queue(url)  # is it ComfyUI at all?
        known = max((time for time, _ in _log(url)), default="")
        number = _drawn(url, prompt, progress)
        paths = [_fetch(url, picture, out) for picture in _pictures_of(url, number)]
        _check_loras_taken([line for time, line in _log(url) if time > known], paths)
    except NoComfyUIError as error:
        raise UserError(
            Problem("no ComfyUI answers", where=url, do="Start it (docker compose up comfyui), or set COMFYUI_URL")
        ) from error
    return paths


def _drawn(url: str, prompt: Mapping[str, Any], progress: Callable[[int, int], None]) -> str:
    """Queue a workflow and return its number once it is drawn."""
    client = str(uuid.uuid4())
    try:
        with _socket(url, client) as socket:
            number = _queue(url, prompt, client)
            _follow(socket, number, prompt, progress)
    except (OSError, InvalidHandshake, ConnectionClosed) as error:
        raise NoComfyUIError(url) from error
    return number


def _socket(url: str, client: str) -> Connection:
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    address = urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/ws", f"clientId={client}", ""))
    # Previews come through the same socket; a picture of 1024 pixels is larger than the library's limit.
    return connect(address, max_size=None, open_timeout=10)


def _queue(url: str, prompt: Mapping[str, Any], client: str) -> str:
    """Queue a workflow and return its number; raise what ComfyUI says against it, every node at once."""
    answer = request("POST", url, "/prompt", json={"prompt": prompt, "client_id": client})
    said = answer.json() if answer.headers.get("Content-Type", "").startswith("application/json") else {}
    if answer.ok and "prompt_id" in said:
        return str(said["prompt_id"])
    problems = Problems()
    for number, refused in said.get("node_errors", {}).items():
        title = prompt.get(number, {}).get("_meta", {}).get("title", refused["class_type"])
        for error in refused["errors"]:
            problems.add(_in_short(error), where=f"node {number} ({title})")
    error = said.get("error", {})
    if not said.get("node_errors"):
        details = f" {error['details']}" if error.get("details") not in (None, "", error.get("message")) else ""
        problems.add(f"ComfyUI refuses the workflow: {error.get('message', answer.status_code)}{details}", where=url)
    problems.raise_if_any()
    raise AssertionError("a refusal without an error has a problem")


def _in_short(error: Mapping[str, Any]) -> str:
    """A node's error in one line; of a list of hundreds of files that are allowed only the first are shown."""
    details = str(error.get("details", ""))
    choices = error.get("extra_info", {}).get("input_config", [None])[0]
    if error.get("type") == "value_not_in_list" and isinstance(choices, list):
        more = f", and {len(choices) - _CHOICES_SHOWN} more" if len(choices) > _CHOICES_SHOWN else ""
        details = f"{details.split(' not in ')[0]}; there are: {', '.join(map(str, choices[:_CHOICES_SHOWN]))}{more}"
    return f"{error.get('message', 'refused')}: {details}"


def _follow(socket: Connection, number: str, prompt: Mapping[str, Any], progress: Callable[[int, int], None]) -> None:
    """Read the socket until this prompt has ended well; messages of other prompts and previews pass by."""
    for message in socket:
        if isinstance(message, bytes):
            continue
        event = json.loads(message)
        kind, data = event.get("type"), event.get("data", {})
        if data.get("prompt_id") != number:
            continue
        if kind == "progress":
            progress(int(data["value"]), int(data["max"]))
        elif kind == "execution_success":
            return
        elif kind == "execution_error":
            title = prompt.get(str(data["node_id"]), {}).get("_meta", {}).get("title", data["node_type"])
            message = str(data["exception_message"]).strip()
            raise UserError(Problem(f"failed: {message}", where=f"node {data['node_id']} ({title})"))
        elif kind == "execution_interrupted":
            raise UserError(Problem("somebody stopped the drawing", where="ComfyUI"))
    raise UserError(Problem("ended before the picture was done", where="ComfyUI", do="See its log for the reason"))


def _pictures_of(url: str, number: str) -> list[dict[str, str]]:
    """What the prompt wrote; of one that ComfyUI had drawn before, what it wrote then."""
    history = request("GET", url, f"/history/{number}").json()
    outputs = history.get(number, {}).get("outputs", {})
    return [
        picture for output in outputs.values() for picture in output.get("images", []) if picture["type"] == "output"
    ]


def _fetch(url: str, picture: Mapping[str, str], out: Path) -> Path:
    answer = request("GET", url, "/view", params=dict(picture))
    if not answer.ok:
        raise UserError(Problem(f"the picture is gone ({answer.status_code})", where=f"{url}, {picture['filename']}"))
    path = out / Path(picture["filename"]).name
    with written_whole(path) as part:
        part.write_bytes(answer.content)
    return path


def _log(url: str) -> list[tuple[str, str]]:
    """(time, line) of ComfyUI's last 300; a key of a LoRA that it did not know stands nowhere else."""
    answer = request("GET", url, "/internal/logs/raw")
    entries = answer.json().get("entries", []) if answer.ok else []
    return [(str(entry["t"]), str(entry["m"])) for entry in entries]


def _check_loras_taken(log: Sequence[str], paths: Sequence[Path]) -> None:
    lost = [line.strip() for line in log if _NOT_TAKEN in line]
    if lost:
        raise UserError(
            Problem(
                f"ComfyUI did not take {len(lost)} keys of a LoRA, the first: {lost[0]}",
                where=", ".join(map(str, paths)) or "the workflow",
                do="See `fluxbooth lora inspect`, and `fluxbooth lora convert` for another form",
            )
        )
