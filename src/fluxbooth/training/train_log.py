"""runs/NAME/train.log: what a run says, and a line for each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger("fluxbooth")


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what is logged inside to `path` too; a run that goes on goes on in its file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.addFilter(lambda record: record.name != "fluxbooth.progress")
    _log.setLevel(logging.INFO)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()
