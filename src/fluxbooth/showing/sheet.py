"""Pictures side by side with titles: a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 12
_TITLE = 22
_INK = (30, 30, 30)
_PAPER = (255, 255, 255)
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]], columns: Sequence[str], cell: int = 256
) -> Image.Image:
    """Lay pictures out in rows with a title each, under column titles.

    Args:
        rows: (title, pictures), as many pictures as there are columns, None for a place that stays empty. A title that
            is wider than the sheet takes several lines.
        columns: titles of the columns.
        cell: the longer side of a picture on the sheet, in pixels; small pictures are enlarged in sharp squares.
    """
    font = ImageFont.load_default(size=14)
    width = _MARGIN + len(columns) * (cell + _MARGIN)
    titles = ["\n".join(_lines(title, font, width - 2 * _MARGIN)) for title, _ in rows]
    fitted = [[_fitted(picture, cell) if picture else None for picture in pictures] for _, pictures in rows]
    heights = [max((picture.height for picture in pictures if picture), default=cell) for pictures in fitted]
    title_heights = [_TITLE * (title.count("\n") + 1) for title in titles]
    sheet = Image.new(
        "RGB", (width, _MARGIN + _TITLE + sum(heights) + sum(title_heights) + _MARGIN * len(rows)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((_MARGIN + column * (cell + _MARGIN), _MARGIN), title, _INK, font)
    top = _MARGIN + _TITLE
    for title, title_height, pictures, height in zip(titles, title_heights, fitted, heights, strict=True):
        for number, line in enumerate(title.split("\n")):
            draw.text((_MARGIN, top + number * _TITLE), line, _INK, font)
        top += title_height
        for column, picture in enumerate(pictures):
            if picture:
                sheet.paste(picture, (_MARGIN + column * (cell + _MARGIN), top))
        top += height + _MARGIN
    return sheet


def _lines(title: str, font: _Font, width: int) -> list[str]:
    """Break a title between words where it is wider than `width` pixels."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
