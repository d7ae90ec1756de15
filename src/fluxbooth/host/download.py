"""Fetch the base weights from the hub into ComfyUI's folders: asked before, checked after, never half a file."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.errors import Problems, UserError
from fluxbooth.host.fetch import Part, fetch
from fluxbooth.host.files import DigestMemory, held_alone, write_text, written_whole
from fluxbooth.host.folders import check_writable
from fluxbooth.host.hub import HubUnreachableError, OnHub, ask, hub_token, read_bytes
from fluxbooth.host.memory import GIB
from fluxbooth.host.weights import REFUSAL_FILE, HubFile

_log = logging.getLogger("fluxbooth")
_SPARE_BYTES = GIB


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched, and what the hub says of it."""

    file: HubFile
    path: Path
    on_hub: OnHub

    @property
    def part(self) -> Part | None:
        """The file on its way; None for a small one whose size nobody says, which comes in one piece."""
        return Part(self.path, self.on_hub.bytes, self.on_hub.sha256) if self.on_hub.bytes else None

    @property
    def missing_bytes(self) -> int:
        """How much is still to come, as far as it is known."""
        return self.part.missing_bytes() if self.part else 0


def download(
    files: Sequence[HubFile], models: Path, memory: DigestMemory, *, replace: bool = False, dry_run: bool = False
) -> None:
    """Fetch what is missing of `files` below `models`; with everything there it asks nobody.

    Before the first byte: every file's access, what the hub has against what is expected, and the disk's free space.
    After the last: size and sha256, then the file appears under its name.

    Args:
        memory: remembers digests, so that files which are there are read once and not every time.
        replace: fetch files anew that are there and are not the right ones.
        dry_run: say what would be fetched, and fetch nothing.

    Raises:
        UserError: a wrong file, no or bad token, licence not accepted, offline, disk too small, or bytes that are not
            the right ones; always all that is known at that point.
    """
    problems = Problems()
    wrong = _wrong_files(files, models, memory, problems)
    if not replace:
        problems.raise_if_any()
    missing = [file for file in files if file in wrong or not (models / file.path).is_file()]
    if not missing:
        _log.info("all %d files are there, nothing to download", len(files))
        return
    wanted = _ask_all(missing, models)
    for one in wanted:
        _log.info("%s %s", "would fetch" if dry_run else "to fetch:", _described(one))
    _check_disk(wanted, models)
    if dry_run:
        return
    with held_alone(models, "another download into this folder is going on", "Wait for it"):
        for one in wanted:
            _fetch(one, memory)


def download_before_training(files: Sequence[HubFile], models: Path, memory: DigestMemory) -> None:
    """Like `download`, but a refusal is written to models/download-refused.txt for `train` to repeat.

    Compose hides the output of a service that another one waits for, and cannot know that `train --model miniature`
    needs no download.
    """
    refusal = models / REFUSAL_FILE
    try:
        download(files, models, memory)
    except UserError as error:
        if os.access(models, os.W_OK):  # where it may not, `train` finds that out for itself
            write_text(refusal, f"{error}\n")
        _log.warning("%s\n(train will say this again if it needs these files)", error)
    else:
        refusal.unlink(missing_ok=True)


def _wrong_files(files: Sequence[HubFile], models: Path, memory: DigestMemory, problems: Problems) -> set[HubFile]:
    """Return the files that are there and have other bytes than expected, with a problem for each."""
    wrong = set()
    for file in files:
        path = models / file.path
        if not path.is_file():
            continue
        has = ""
        if file.bytes is not None and path.stat().st_size != file.bytes:
            has, allowed = f"has {path.stat().st_size:,} bytes", f"{file.bytes:,} bytes"
        elif file.sha256 is not None and memory.digest(path) != file.sha256:
            has, allowed = f"has the sha256 {memory.digest(path)}", file.sha256
        if has:
            wrong.add(file)
            problems.add(
                has,
                where=str(path),
                allowed=f"{allowed}, as {file.repository} has it",
                do="`fluxbooth download --replace` fetches it anew",
            )
    return wrong


def _ask_all(files: Sequence[HubFile], models: Path) -> list[Wanted]:
    """Ask the hub for every file; raise all refusals at once, one a repository, up to where it is unreachable."""
    problems = Problems()
    check_writable(models, problems)
    problems.raise_if_any()
    token = hub_token()
    wanted: list[Wanted] = []
    reached = True
    for repository in dict.fromkeys(file.repository for file in files):
        with problems.gathered():
            try:
                for file in (file for file in files if file.repository == repository):
                    on_hub = ask(file, token)
                    _check_what_the_hub_has(file, on_hub, problems)
                    wanted.append(Wanted(file, models / file.path, on_hub))
            except HubUnreachableError:
                reached = False
                raise
        if not reached:
            break
    problems.raise_if_any()
    return wanted


def _check_what_the_hub_has(file: HubFile, on_hub: OnHub, problems: Problems) -> None:
    for name, has, expected in (("bytes", on_hub.bytes, file.bytes), ("sha256", on_hub.sha256, file.sha256)):
        if has is not None and expected is not None and has != expected:
            problems.add(
                f"the hub now has a file with {name} {has}",
                where=f"{file.repository}, {file.file}",
                allowed=f"{name} {expected}, the file that fluxbooth knows",
                do=f"Fetch it by hand into {file.path}, or wait for a fluxbooth that knows the new one",
            )


def _described(wanted: Wanted) -> str:
    size = f"{wanted.on_hub.bytes / GIB:.2f} GiB" if wanted.on_hub.bytes else "small"
    return f"{wanted.path} from {wanted.file.repository} ({size})"


def _check_disk(wanted: Sequence[Wanted], models: Path) -> None:
    needed = sum(one.missing_bytes for one in wanted)
    there = next(parent for parent in (models, *models.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE_BYTES:
        problems = Problems()
        problems.add(
            f"{needed / GIB:.1f} GiB are to be downloaded and {free / GIB:.1f} GiB are free",
            where=str(models),
            do="Make room, or name another folder with --models-dir",
        )
        problems.raise_if_any()


def _fetch(wanted: Wanted, memory: DigestMemory) -> None:
    token = hub_token()
    if wanted.part is None:
        with written_whole(wanted.path) as file:
            file.write_bytes(b"".join(read_bytes(wanted.file, token)))
        return
    memory.remember(wanted.path, fetch(wanted.file, wanted.part, token))
