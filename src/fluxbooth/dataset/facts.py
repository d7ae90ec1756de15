"""What is known of picture files: read once, remembered as long as a file has its size and modification time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fluxbooth.dataset.duplicates import difference_hash, rough_colours
from fluxbooth.dataset.pictures import decode
from fluxbooth.host.files import write_text


@dataclass(frozen=True)
class PictureFacts:
    """What planning needs to know of a picture."""

    digest: str
    """sha256 of the file's bytes."""
    width: int
    height: int
    """Pixels, as a person would see the picture: turned upright."""
    turned: bool
    """Whether its EXIF orientation turned it."""
    transparent: bool
    """Whether something shows through it."""
    frames: int
    """1, and more for an animation."""
    look: int
    """Its difference hash, 64 bits: near for pictures that look nearly the same."""
    colours: str
    """The mean colours of its 4 x 4 parts, red, green and blue in hexadecimal."""


class PictureMemory:
    """The facts of every picture that was read, in one JSON file; without it a hundred thousand are decoded again."""

    def __init__(self, file: Path | None = None) -> None:
        """Use `file`, which is made by `keep`; None for a memory that lasts as long as the process."""
        self._file = file
        self._known: dict[str, PictureFacts] = {}
        self._new = False
        try:
            entries = json.loads(file.read_text(encoding="utf-8")) if file else {}
            self._known = {key: PictureFacts(**entry) for key, entry in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}  # a memory that is lost costs reading again, nothing else

    def facts(self, path: Path) -> PictureFacts:
        """Return the facts of a picture; it is decoded once, so that a file that was cut short is found.

        Raises:
            UnreadablePictureError: for a file that is no picture.
            OSError: for one that cannot be read.
        """
        state = path.stat()
        key = f"{path.absolute()}|{state.st_size}|{state.st_mtime_ns}"
        if key not in self._known:
            data = path.read_bytes()
            decoded = decode(data)
            picture = decoded.picture
            self._known[key] = PictureFacts(
                hashlib.sha256(data).hexdigest(),
                *picture.size,
                decoded.turned,
                decoded.transparent,
                decoded.frames,
                difference_hash(picture),
                rough_colours(picture),
            )
            self._new = True
        return self._known[key]

    def keep(self) -> None:
        """Write what was learned to the file; nothing where nothing was."""
        if self._file and self._new:
            write_text(self._file, json.dumps({key: asdict(facts) for key, facts in self._known.items()}))
            self._new = False
