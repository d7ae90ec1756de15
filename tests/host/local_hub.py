"""A hub on this machine that answers as huggingface.co does, and a second server for the storage it sends one to.

What it imitates, in the order in which the hub decides: a token it does not know is refused with 401 wherever it is
shown; a gated repository wants a token (401) whose account has accepted the licence and which may read gated
repositories (403 for either); a file it has not is 404. A large file is answered with 302 to another host and its size
in X-Linked-Size. A small file is answered with 307 to a path on the same host, without a word about its size.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Literal
from urllib.parse import quote, unquote

import huggingface_hub
import pytest

from fluxbooth.host.weights import HubFile

LICENSED_TOKEN = "hf_ofAnAccountThatAcceptedTheLicence"
TOKEN_WITHOUT_LICENCE = "hf_ofAnAccountThatDidNot"
TOKEN_WITHOUT_SCOPE = "hf_fineGrainedWithoutGatedRepositories"
UNKNOWN_TOKEN = "hf_nobodyKnowsThisOne"
_KNOWN = (LICENSED_TOKEN, TOKEN_WITHOUT_LICENCE, TOKEN_WITHOUT_SCOPE)

Kept = Literal["storage", "cache", "repository"]
"""Where a file lies: on the other host (large files), behind a redirect on this one, or right at its address."""
Fault = Literal["dropped", "altered", "refused", "short", "slow", "no ranges"]
"""What goes wrong with a GET: the connection breaks in the middle, other bytes of the same number come, a 503, half of
what was asked for as if it were all, a line so slow that only the first bytes come in the time of a test, or the whole
file where a part was asked for."""


@dataclass(frozen=True)
class Stored:
    """A file that the hub has."""

    content: bytes
    gated: bool
    kept: Kept
    compresses: bool


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    authorization: str | None
    range: str | None = None


@dataclass
class LocalHub:
    """What the hub has, what goes wrong with it, and what was asked of it."""

    url: str = ""
    storage_url: str = ""
    stored: dict[str, Stored] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    """By the file's path inside its repository."""
    well_answers: int = 0
    """How many GETs go well before the faults begin."""
    faulty_answers: float = math.inf
    """How many GETs go wrong before all is well again."""
    out_of_order: bool = False
    """Whether every request is answered with 500."""
    counting: Lock = field(default_factory=Lock)
    asked: list[Asked] = field(default_factory=list)
    """Requests to the hub itself."""
    asked_of_storage: list[Asked] = field(default_factory=list)

    def has(
        self,
        path: str,
        content: bytes,
        *,
        repository: str = "maker/gated-model",
        gated: bool = True,
        kept: Kept = "storage",
        compresses: bool = False,
        pinned: bool = True,
    ) -> HubFile:
        """Put a file on the hub; return how it is asked for, with its true size and digest where `pinned`."""
        file = path.rpartition("/")[2]
        self.stored[f"/{repository}/resolve/main/{file}"] = Stored(content, gated, kept, compresses)
        return (
            HubFile(path, repository, file, len(content), hashlib.sha256(content).hexdigest())
            if pinned
            else HubFile(path, repository, file)
        )

    def methods(self) -> set[str]:
        """Which methods were used, on either server."""
        return {asked.method for asked in (*self.asked, *self.asked_of_storage)}


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Serve an empty hub and its storage on two free ports of the loopback for as long as the block runs."""
    hub = LocalHub()
    with _serving(hub, _HubHandler) as hub.url, _serving(hub, _StorageHandler) as hub.storage_url:
        yield hub


def seen_as_the_hub(served: LocalHub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let huggingface_hub ask `served`, without a token; `home` is where its own login would lie."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    # HF_ENDPOINT and HF_TOKEN_PATH are read when huggingface_hub is imported; these constants are what it keeps.
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "home" / "token"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: LocalHub, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        raise NotImplementedError

    def asked(self) -> Asked:
        return Asked(self.command, self.path, self.headers.get("Authorization"), self.headers.get("Range"))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer; `headers` are written with '_' for '-'."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer_with_file(self, path: str) -> None:
        """Send a file's content, with the fault it was given."""
        hub, stored = self.server.hub, self.server.hub.stored[path]
        body, status, about = stored.content, 200, {"Accept_Ranges": "bytes"}
        fault = hub.faults.get(path.rpartition("/")[2]) if self.command == "GET" else None
        with hub.counting:
            if fault and hub.well_answers > 0:
                hub.well_answers, fault = hub.well_answers - 1, None
            elif fault and hub.faulty_answers <= 0:
                fault = None
            elif fault:
                hub.faulty_answers -= 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and fault != "no ranges":
            first, last = int(asked[1]), int(asked[2] or len(body) - 1)
            if first >= len(body):
                self.answer(416, Content_Range=f"bytes */{len(body)}")
                return
            status, about["Content_Range"] = 206, f"bytes {first}-{last}/{len(body)}"
            body = body[first : last + 1]
        if fault == "refused":
            self.answer(503)
        elif fault in ("dropped", "slow"):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "slow":
                time.sleep(60)
            self.close_connection = True
        elif fault == "short":
            self.answer(status, body[: len(body) // 2], **about)
        elif fault == "altered":
            self.answer(status, bytes(byte ^ 1 for byte in body), **about)
        elif stored.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.answer(200, gzip.compress(body), Content_Encoding="gzip")
        else:
            self.answer(status, body, **about)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


class _HubHandler(_Handler):
    def respond(self) -> None:
        hub = self.server.hub
        hub.asked.append(self.asked())
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        cached = self.path.startswith("/api/resolve-cache/models")
        path = unquote(self.path.removeprefix("/api/resolve-cache/models"))
        stored = hub.stored.get(path)
        if hub.out_of_order:
            self.answer(500)
        elif token is not None and token not in _KNOWN:
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        elif not any(known.split("/")[1:3] == path.split("/")[1:3] for known in hub.stored):
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif stored is None:
            self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        elif stored.gated and token is None:
            self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted.")
        elif stored.gated and token == TOKEN_WITHOUT_LICENCE:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="You are not in the authorized list.")
        elif stored.gated and token == TOKEN_WITHOUT_SCOPE:
            self.answer(403, X_Error_Message="Please enable access to public gated repositories")
        elif stored.kept == "storage":
            self.answer(
                302,
                b"Found. Redirecting to the storage",
                Location=f"{hub.storage_url}{quote(path)}",
                X_Linked_Size=str(len(stored.content)),
                X_Linked_Etag=f'"{hashlib.sha256(stored.content).hexdigest()}"',
            )
        elif stored.kept == "cache" and not cached:
            location = f"/api/resolve-cache/models{quote(path)}"
            self.answer(307, f"Temporary Redirect. Redirecting to {location}".encode(), Location=location)
        else:
            self.answer_with_file(path)


class _StorageHandler(_Handler):
    def respond(self) -> None:
        self.server.hub.asked_of_storage.append(self.asked())
        self.answer_with_file(unquote(self.path))


@contextmanager
def _serving(hub: LocalHub, handler: type[_Handler]) -> Iterator[str]:
    """Serve with `handler` in a thread of its own; yield the address."""
    server = _Server(hub, handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
