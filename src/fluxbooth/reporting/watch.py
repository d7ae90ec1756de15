"""A run's page that is written again and again while the run goes on."""

from __future__ import annotations

import math
import time
from pathlib import Path

from fluxbooth.host.files import is_held
from fluxbooth.reporting.page import write_report

SECONDS_BETWEEN_PAGES = 20
"""How often the page is written while the run goes on, and loads itself in the browser."""


def watch(run_folder: Path, seconds: float = SECONDS_BETWEEN_PAGES) -> None:
    """Write the page of a run, and again every so many seconds while a training is in its folder.

    The last page, written when the training has ended or the watching was interrupted, loads itself no more.

    Raises:
        UserError: for a run whose files are damaged.
    """
    try:
        while is_held(run_folder):
            write_report(run_folder, reload_every=math.ceil(seconds))
            time.sleep(seconds)
    finally:
        write_report(run_folder)
