"""Pictures side by side with titles: a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 12
_TITLE = 22
_INK = (30, 30, 30)
_PAPER = (255, 255, 255)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = 256
) -> Image.Image:
    """Lay pictures out in rows with a title each, under column titles.

    Args:
        rows: (title, pictures), as many pictures as there are columns.
        columns: titles of the columns.
        cell: the longer side of a picture on the sheet, in pixels; small pictures are enlarged in sharp squares.
    """
    row_height = cell + _TITLE + _MARGIN
    sheet = Image.new(
        "RGB", (_MARGIN + len(columns) * (cell + _MARGIN), _MARGIN + _TITLE + len(rows) * row_height), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for column, title in enumerate(columns):
        draw.text((_MARGIN + column * (cell + _MARGIN), _MARGIN), title, _INK, font)
    for row, (title, pictures) in enumerate(rows):
        top = _MARGIN + _TITLE + row * row_height
        draw.text((_MARGIN, top), title, _INK, font)
        for column, picture in enumerate(pictures):
            sheet.paste(_fitted(picture, cell), (_MARGIN + column * (cell + _MARGIN), top + _TITLE))
    return sheet


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
