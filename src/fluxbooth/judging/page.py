"""One page for the browser that needs no network: numbers in a table, pictures side by side inside the file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader
from PIL import Image

from fluxbooth.host.files import write_text

# Pixels of a picture's longer side on the page; a page with a few photographs would else weigh tens of megabytes.
_LARGEST = 384


@dataclass(frozen=True)
class Strip:
    """Pictures that belong together under one title, in labelled sets: for instance without and with the LoRA."""

    title: str
    sets: Sequence[tuple[str, Sequence[Image.Image]]]


def write_page(
    path: Path,
    title: str,
    summary: str,
    columns: Sequence[str],
    facts: Sequence[tuple[str, Sequence[str]]],
    strips: Sequence[Strip],
) -> None:
    """Write an HTML page, whole or not at all.

    Args:
        columns: titles of the table's number columns.
        facts: (name, one value for each column), the table's rows.
        strips: the pictures, in the order of the page.
    """
    environment = Environment(loader=PackageLoader("fluxbooth.judging"), autoescape=True)
    shown = [
        {
            "title": strip.title,
            "sets": [(label, [_as_address(picture) for picture in pictures]) for label, pictures in strip.sets],
        }
        for strip in strips
    ]
    template = environment.get_template("page.html.j2")
    write_text(path, template.render(title=title, summary=summary, columns=columns, facts=facts, strips=shown))


def _as_address(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    small.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
