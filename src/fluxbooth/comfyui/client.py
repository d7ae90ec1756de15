"""Talk to a running ComfyUI over HTTP: is it there, is it busy, will it give its memory back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests

from fluxbooth.errors import Problem, UserError

DEFAULT_URL = "http://127.0.0.1:8188"
_SECONDS = 10
_BETWEEN_LOOKS = 2.0
"""Seconds between two looks at the queue."""


class NoComfyUIError(Exception):
    """Nobody listens where ComfyUI would."""


def url_from_environment() -> str:
    """Where ComfyUI listens: COMFYUI_URL, else http://127.0.0.1:8188."""
    return os.environ.get("COMFYUI_URL") or DEFAULT_URL


def request(method: str, url: str, path: str, **keywords: Any) -> requests.Response:
    """Send a request to `path` of the ComfyUI at `url`; the answer may be a refusal.

    Raises:
        NoComfyUIError: when nobody listens there.
        UserError: when `url` is no address.
    """
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_possible_port(parts):
        raise UserError(Problem(f"'{url}' is no address", where="COMFYUI_URL", allowed=f"for instance {DEFAULT_URL}"))
    try:
        return requests.request(method, url.rstrip("/") + path, timeout=_SECONDS, **keywords)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NoComfyUIError(url) from error
    except (requests.exceptions.InvalidURL, UnicodeError) as error:
        raise UserError(Problem(f"'{url}' is no address", where="COMFYUI_URL", allowed=DEFAULT_URL)) from error


def free_memory(url: str) -> bool:
    """Ask ComfyUI to unload its models and drop its node cache; return whether there was a ComfyUI to ask.

    Both flags are needed: `unload_models` alone kept 4.4 of 6.5 GiB, `free_memory` too left 0.8 (ComfyUI 0.3.64). It
    then also forgets LoRA files that were replaced under their names.

    Raises:
        UserError: when something else answers at `url`, or ComfyUI refuses.
    """
    try:
        answer = request("POST", url, "/free", json={"unload_models": True, "free_memory": True})
    except NoComfyUIError:
        return False
    _check_answer(answer, url, "POST /free")
    return True


def pictures_in_queue(url: str) -> int:
    """Return how many prompts ComfyUI is drawing or has yet to draw.

    Raises:
        NoComfyUIError: when nobody listens at `url`.
        UserError: when something else answers there.
    """
    answer = request("GET", url, "/prompt")
    _check_answer(answer, url, "GET /prompt")
    try:
        return int(answer.json()["exec_info"]["queue_remaining"])
    except (ValueError, KeyError, TypeError) as error:
        raise _not_comfyui("GET /prompt was not answered as ComfyUI does", url) from error


def make_room(url: str) -> Iterator[str]:
    """Let ComfyUI draw what is in its queue, then give its memory back; yield what happened, nothing without one."""
    try:
        waiting = pictures_in_queue(url)
        if waiting:
            yield f"waiting for ComfyUI's queue, {waiting} to draw"
        while waiting:
            time.sleep(_BETWEEN_LOOKS)
            waiting = pictures_in_queue(url)
    except NoComfyUIError:
        return
    if free_memory(url):
        yield "ComfyUI unloaded its models"


def _check_answer(answer: requests.Response, url: str, asked: str) -> None:
    if not answer.ok:
        raise _not_comfyui(f"{asked} was answered with {answer.status_code}", url)


def _not_comfyui(what: str, url: str) -> UserError:
    return UserError(Problem(what, where=url, do="Is this ComfyUI? Set COMFYUI_URL"))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # half an IPv6 address
        return urlsplit("")


def _has_possible_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # not a number, or above 65535
        return False
