"""runs/NAME/train.log: what a run says, and a line for each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_log = logging.getLogger("fluxbooth")


class _FileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        """Let a full disk be an error as elsewhere; the library prints a traceback and goes on."""
        raise


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what is logged inside to `path` too; a run that goes on goes on in its file."""
    handler = _FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.addFilter(lambda record: record.name != "fluxbooth.progress")
    _log.setLevel(logging.INFO)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        with suppress(OSError):  # raised already, when a line was written
            handler.close()
