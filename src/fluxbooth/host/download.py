"""Fetch the base weights from the hub into ComfyUI's folders: asked before, checked after, never half a file."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from huggingface_hub import get_token, hf_hub_url
from tqdm import tqdm

from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.host.files import write_text, written_whole
from fluxbooth.host.folders import check_writable
from fluxbooth.host.memory import GIB
from fluxbooth.host.page_cache import drop_page_cache
from fluxbooth.host.weights import LICENCE_PAGE, REFUSAL_FILE, HubFile

_log = logging.getLogger("fluxbooth")
_BLOCK = 8 * 1024 * 1024
_SECONDS = 30
_MOST_REDIRECTS = 5
_SPARE_BYTES = GIB


def download(files: Sequence[HubFile], models: Path) -> None:
    """Fetch what is missing of `files` below `models`; with everything there it asks nobody.

    Before the first byte: every file's access and the disk's free space. After the last: size and sha256, then the
    file appears under its name.

    Raises:
        UserError: a file of another size, no or bad token, licence not accepted, offline, disk too small, or bytes
            that are not the right ones; always all that is known at that point.
    """
    _check_present(files, models)
    missing = [file for file in files if not (models / file.path).is_file()]
    if not missing:
        _log.info("all %d files are there, nothing to download", len(files))
        return
    problems = Problems()
    check_writable(models, problems)
    problems.raise_if_any()
    token = _token()
    sizes: dict[HubFile, int | None] = {}
    for repository in dict.fromkeys(file.repository for file in missing):
        with problems.gathered():
            for file in (file for file in missing if file.repository == repository):
                sizes[file] = _ask_size(file, token)
    problems.raise_if_any()
    models.mkdir(parents=True, exist_ok=True)
    _check_disk(sum(size or 0 for size in sizes.values()), models)
    for file in missing:
        _fetch(file, sizes[file], models / file.path, token)


def download_before_training(files: Sequence[HubFile], models: Path) -> None:
    """Like `download`, but a refusal is written to models/download-refused.txt for `train` to repeat.

    Compose hides the output of a service that another one waits for, and cannot know that `train --model miniature`
    needs no download.
    """
    refusal = models / REFUSAL_FILE
    try:
        download(files, models)
    except UserError as error:
        if os.access(models, os.W_OK):  # where it may not, `train` finds that out for itself
            write_text(refusal, f"{error}\n")
        _log.warning("%s\n(train will say this again if it needs these files)", error)
    else:
        refusal.unlink(missing_ok=True)


def _check_present(files: Sequence[HubFile], models: Path) -> None:
    problems = Problems()
    for file in files:
        path = models / file.path
        if path.is_file() and file.bytes is not None and path.stat().st_size != file.bytes:
            problems.add(
                f"has {path.stat().st_size:,} bytes",
                where=str(path),
                allowed=f"{file.bytes:,} bytes, as {file.repository} has it",
                do="Delete it and run the download again",
            )
    problems.raise_if_any()


def _token() -> str | None:
    """The token of HF_TOKEN, HF_TOKEN_PATH or the hub's own login; None where there is none."""
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


def _ask_size(file: HubFile, token: str | None) -> int | None:
    """Ask the hub for a file's size in bytes, without going on to the storage it lies on; None where it does not say.

    Small files are redirected to another path of the hub, large ones to another host; the redirect's own length is
    not the file's.
    """
    url = hf_hub_url(file.repository, file.file)
    for _ in range(_MOST_REDIRECTS):
        try:
            answer = requests.head(url, headers=_headers(token), timeout=_SECONDS, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise UserError(
                Problem(
                    f"the hub cannot be reached ({type(error).__name__})",
                    where=file.repository,
                    do="Check the connection",
                )
            ) from error
        if answer.status_code >= 400:
            raise UserError(_refusal(file, answer, token))
        if "X-Linked-Size" in answer.headers:
            return int(answer.headers["X-Linked-Size"])
        if not answer.is_redirect:
            return int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        target = urljoin(url, answer.headers["Location"])
        if urlsplit(target).netloc != urlsplit(url).netloc:
            return None
        url = target
    return None


def _refusal(file: HubFile, answer: requests.Response, token: str | None) -> Problem:
    code = answer.headers.get("X-Error-Code", "")
    if token is None and answer.status_code == 401:
        return Problem(
            "this repository is gated and there is no token",
            where=file.repository,
            do=f"Accept the licence at {LICENCE_PAGE}, make a token with read access to gated repositories, "
            "and set HF_TOKEN (in Docker: put it into a file and name that file as HF_TOKEN_FILE in .env)",
        )
    if answer.status_code == 401:
        return Problem(
            "the hub does not know this token", where=file.repository, do="Make a new token and set HF_TOKEN"
        )
    if answer.status_code == 403:
        return Problem(
            "the token has no access to this repository",
            where=file.repository,
            do=f"Accept the licence at {LICENCE_PAGE} with the token's account; a fine-grained token also needs "
            "'Read access to contents of all public gated repos you can access'",
        )
    return Problem(f"the hub answered {answer.status_code} {code}".strip(), where=f"{file.repository}, {file.file}")


def _check_disk(needed: int, models: Path) -> None:
    free = shutil.disk_usage(models).free
    if free < needed + _SPARE_BYTES:
        raise UserError(
            Problem(
                f"{needed / GIB:.1f} GiB are to be downloaded and {free / GIB:.1f} GiB are free",
                where=str(models),
                do="Make room, or name another folder with --models-dir",
            )
        )


def _fetch(file: HubFile, size: int | None, path: Path, token: str | None) -> None:
    url = hf_hub_url(file.repository, file.file)
    digest, received = hashlib.sha256(), 0
    _log.info("fetching %s (%s)", path.name, f"{size / GIB:.2f} GiB" if size else "of unknown size")
    progress = tqdm(total=size, desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
    with written_whole(path) as part, progress:
        try:
            # requests leaves the token out when it is redirected to another host.
            answer = requests.get(url, headers=_headers(token), timeout=_SECONDS, stream=True)
            if answer.status_code != 200:
                raise UserError(_refusal(file, answer, token))
            with part.open("wb") as out:
                for block in answer.iter_content(_BLOCK):
                    out.write(block)
                    digest.update(block)
                    received += len(block)
                    progress.update(len(block))
        except (requests.RequestException, OSError) as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else type(error).__name__
            raise UserError(
                Problem(
                    f"the download broke off after {received:,} bytes ({reason})",
                    where=str(path),
                    do="Run it again",
                )
            ) from error
        if size not in (None, received) or file.sha256 not in (None, digest.hexdigest()):
            raise UserError(
                Problem(
                    f"{received:,} bytes with sha256 {digest.hexdigest()} came",
                    where=str(path),
                    allowed=f"{size or received:,} bytes with sha256 {file.sha256 or 'of any value'}",
                    do="Run it again; nothing was kept",
                )
            )
    drop_page_cache(path)


def _headers(token: str | None) -> dict[str, str]:
    # "identity": the hub would compress small files, and their size would be that of other bytes.
    return {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
