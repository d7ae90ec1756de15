"""ComfyUI is asked to give its memory back, by the endpoint that version 0.3.64 has for it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from comfyui.local_comfyui import local_comfyui
from fluxbooth.comfyui import client
from fluxbooth.comfyui.client import (
    DEFAULT_URL,
    free_memory,
    make_room,
    pictures_in_queue,
    url_from_environment,
)
from fluxbooth.errors import UserError


class LocalServer(ThreadingHTTPServer):
    """Answers POST /free with `status` and no body, anything else with 404, as ComfyUI does with 200."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.bodies: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: LocalServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        target = self.requestline.split()[1]  # self.path would have "//free" mended, which ComfyUI does not do
        if target == "/free" and self.headers["Content-Type"] == "application/json":
            self.server.bodies.append(json.loads(body))
            self.send_response(self.server.status)
        else:
            self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def answering(status: int) -> Iterator[LocalServer]:
    server = LocalServer(status)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def closed_url() -> str:
    """Where nobody listens: a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        return f"http://127.0.0.1:{closing.getsockname()[1]}"


def test_comfyui_is_asked_for_its_models_and_its_cache_at_once() -> None:
    with answering(200) as comfyui:
        assert free_memory(comfyui.url) is True
        assert comfyui.bodies == [{"unload_models": True, "free_memory": True}]


def test_where_nobody_listens_there_is_nothing_to_free(closed_url: str) -> None:
    assert free_memory(closed_url) is False


@pytest.mark.parametrize("status", [404, 405, 500])
def test_something_that_is_not_comfyui_is_named_with_its_address_and_answer(status: int) -> None:
    with answering(status) as other:
        with pytest.raises(UserError) as raised:
            free_memory(other.url)
        assert str(raised.value) == (
            f"{other.url}: POST /free was answered with {status}. Is this ComfyUI? Set COMFYUI_URL."
        )


def test_comfyui_listens_at_its_own_port_unless_the_variable_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    assert url_from_environment() == DEFAULT_URL == "http://127.0.0.1:8188"
    monkeypatch.setenv("COMFYUI_URL", "")
    assert url_from_environment() == DEFAULT_URL
    monkeypatch.setenv("COMFYUI_URL", "http://spark.local:8188")
    assert url_from_environment() == "http://spark.local:8188"


def test_an_address_may_end_with_a_slash_as_browsers_show_it() -> None:
    with answering(200) as comfyui:
        assert free_memory(f"{comfyui.url}/") is True


@pytest.mark.parametrize("url", ["localhost:8188", "http://", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_the_users_to_mend(url: str) -> None:
    with pytest.raises(UserError, match="COMFYUI_URL"):
        free_memory(url)


def test_a_queue_that_something_else_answers_for_is_refused() -> None:
    with answering(200) as other, pytest.raises(UserError, match="Is this ComfyUI"):
        pictures_in_queue(other.url)


def test_room_is_made_once_the_queue_is_drawn(monkeypatch: pytest.MonkeyPatch, closed_url: str) -> None:
    monkeypatch.setattr(client, "_BETWEEN_LOOKS", 0.001)
    with local_comfyui() as comfyui:
        comfyui.queue = [1, 1]
        assert list(make_room(comfyui.url)) == [
            "waiting for ComfyUI's queue, 1 to draw",
            "ComfyUI unloaded its models",
        ]
        assert comfyui.freed == [{"unload_models": True, "free_memory": True}]
        assert list(make_room(comfyui.url)) == ["ComfyUI unloaded its models"]
    assert list(make_room(closed_url)) == []
