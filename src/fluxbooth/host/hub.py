"""The hub that has the base weights: what it says of a file, why it refuses one, and its bytes from anywhere on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests
from huggingface_hub import get_token, hf_hub_url
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, Retry

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.weights import HubFile

_log = logging.getLogger("fluxbooth")
_SECONDS = 30
_MOST_REDIRECTS = 5
_ATTEMPTS = 5
_FIRST_PAUSE = 1.0
"""Seconds before the first repetition; doubled for each that follows."""
_READ_BYTES = 64 * 1024
"""What may be lost of a connection that breaks."""


class HubUnreachableError(UserError):
    """The hub does not answer, whatever it is asked for."""


@dataclass(frozen=True)
class OnHub:
    """What the hub says of a file before it sends it; None where it says nothing."""

    bytes: int | None
    sha256: str | None


def hub_token() -> str | None:
    """Return the token of HF_TOKEN, HF_TOKEN_PATH or the hub's own login; None where there is none.

    Raises:
        UserError: for a token with characters that no token has.
    """
    token = get_token()
    if token is not None and not token.isascii():
        raise UserError(
            Problem(
                "the token has characters that no token has, quotation marks perhaps",
                where="HF_TOKEN",
                do="Copy it again without quotation marks. Make a new token and set HF_TOKEN if that does not help",
            )
        )
    return token


def ask(file: HubFile, token: str | None) -> OnHub:
    """Ask the hub for a file's size and digest, without going on to the storage it lies on.

    Small files are redirected to another path of the hub, large ones to another host; the redirect's own length is
    not the file's.

    Raises:
        HubUnreachableError: after five attempts.
        UserError: naming which of the causes it is that the file cannot be had.
    """
    url = hf_hub_url(file.repository, file.file)
    with _session() as session:
        for _ in range(_MOST_REDIRECTS):
            try:
                answer = session.head(url, headers=_headers(token), timeout=_SECONDS, allow_redirects=False)
            except requests.RequestException as error:
                raise _unreachable(file, error) from error
            if answer.status_code >= 400:
                raise UserError(_refusal(file, answer, token))
            if "X-Linked-Size" in answer.headers:
                etag = answer.headers.get("X-Linked-Etag", "").strip('"')
                return OnHub(int(answer.headers["X-Linked-Size"]), etag if len(etag) == 64 else None)
            if not answer.is_redirect:
                length = answer.headers.get("Content-Length")
                return OnHub(int(length) if length else None, None)
            target = urljoin(url, answer.headers["Location"])
            if urlsplit(target).netloc != urlsplit(url).netloc:
                break
            url = target
    return OnHub(None, None)


def read_bytes(file: HubFile, token: str | None, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield a file's bytes from `start` up to `stop`, or to its end; goes on where a connection broke.

    The token goes to the hub and not to the storage that it redirects to.

    Raises:
        HubUnreachableError: when nothing comes in five attempts.
        UserError: for a refusal.
    """
    attempts = 0
    while stop is None or start < stop:
        try:
            for block in _read_once(file, token, start, stop):
                start += len(block)
                attempts = 0
                yield block
            if stop is None or start >= stop:
                return
            raise requests.ConnectionError("the answer ended early")
        except requests.RequestException as error:
            attempts += 1
            if attempts == _ATTEMPTS:
                raise _unreachable(file, error) from error
            time.sleep(_FIRST_PAUSE * 2 ** (attempts - 1))


def _read_once(file: HubFile, token: str | None, start: int, stop: int | None) -> Iterator[bytes]:
    part = {} if (start, stop) == (0, None) else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    # requests leaves the token out when it is redirected to another host.
    with (
        _session() as session,
        session.get(
            hf_hub_url(file.repository, file.file), headers=_headers(token) | part, timeout=_SECONDS, stream=True
        ) as answer,
    ):
        if answer.status_code >= 400:
            raise UserError(_refusal(file, answer, token))
        if start and answer.status_code != 206:
            raise UserError(
                Problem(
                    f"a part of the file was asked for and {answer.status_code} came",
                    where=f"{file.repository}, {file.file}",
                    allowed="206: a server that sends parts of files",
                    do="Use another HF_ENDPOINT",
                )
            )
        for piece in answer.iter_content(_READ_BYTES):
            yield piece if stop is None else piece[: stop - start]
            start += len(piece)
            if stop is not None and start >= stop:
                return  # a server that sends all of the file where its first part was asked for


class _Repetition(Retry):
    """Says how long it waits before the hub is asked again."""

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        asked_for = self.get_retry_after(response) if response else None
        seconds = asked_for or self.get_backoff_time()
        if seconds:
            what = f"answers {response.status}" if response else "cannot be reached"
            _log.warning("warning: the hub %s; asked again in %.3g s", what, seconds)
        super().sleep(response)


def _session() -> requests.Session:
    """A session that repeats what was refused for the moment, as long as the server asks for, else ever longer."""
    session = requests.Session()
    retry = _Repetition(
        total=_ATTEMPTS - 1,
        backoff_factor=_FIRST_PAUSE,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        redirect=_MOST_REDIRECTS,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _headers(token: str | None) -> dict[str, str]:
    # "identity": the hub would compress small files, and their size would be that of other bytes.
    return {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _unreachable(file: HubFile, error: requests.RequestException) -> HubUnreachableError:
    return HubUnreachableError(
        Problem(
            f"the hub cannot be reached ({type(error).__name__})",
            where=file.repository,
            do="Check the connection and run it again: what has come is kept",
        )
    )


def _refusal(file: HubFile, answer: requests.Response, token: str | None) -> Problem:
    code = answer.headers.get("X-Error-Code", "")
    if token is None and answer.status_code == 401:
        return _without_token(file, code)
    if code == "RepoNotFound":
        return Problem("the hub has no such repository", where=file.repository, do="Check HF_ENDPOINT")
    if answer.status_code == 401:
        return Problem(
            "the hub does not know this token: it is mistyped, or was revoked",
            where=file.repository,
            do="Make a new token and set HF_TOKEN",
        )
    if answer.status_code == 403:
        return _forbidden(file, code, answer.headers.get("X-Error-Message", ""))
    return Problem(f"the hub answered {answer.status_code} {code}".strip(), where=f"{file.repository}, {file.file}")


def _licence_page(file: HubFile) -> str:
    """The hub's own, also where files come from a mirror: licences are accepted there alone."""
    return f"https://huggingface.co/{file.repository}"


def _without_token(file: HubFile, code: str) -> Problem:
    """Tell a gated repository from one that the hub does not show, which it may not have either."""
    access = (
        f"Accept the licence at {_licence_page(file)}, make a token with read access to gated repositories, "
        "and set HF_TOKEN (in Docker: put it into a file and name that file as HF_TOKEN_FILE in .env)"
    )
    if code == "RepoNotFound":
        what = "the hub has no such repository, or shows it to no one without a token"
        return Problem(what, where=file.repository, do=f"Check HF_ENDPOINT. {access}")
    return Problem("this repository is gated and there is no token", where=file.repository, do=access)


def _forbidden(file: HubFile, code: str, message: str) -> Problem:
    """Tell a token without the gated scope from an account that has not accepted the licence, where the hub does."""
    accept = f"Accept the licence at {_licence_page(file)} with the token's account"
    scope = "Give the fine-grained token 'Read access to contents of all public gated repos you can access'"
    if "enable access to public gated" in message:
        return Problem("the token may not read gated repositories", where=file.repository, do=scope)
    if code == "GatedRepo":
        return Problem("the token's account has not accepted the licence", where=file.repository, do=accept)
    return Problem("the token has no access to this repository", where=file.repository, do=f"{accept}. {scope}")
