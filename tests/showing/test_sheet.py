"""A contact sheet has every picture in its row and column, at the size that was asked for."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from fluxbooth.showing.sheet import contact_sheet

RED, GREEN, BLUE, ORANGE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 120, 0)
WHITE = (255, 255, 255)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return where exactly `colour` is on the sheet: left, top, right, bottom."""
    difference = ImageChops.difference(sheet, Image.new("RGB", sheet.size, colour)).split()
    farthest = ImageChops.lighter(ImageChops.lighter(difference[0], difference[1]), difference[2])
    box = farthest.point(lambda value: 255 * (value == 0)).getbbox()
    assert box is not None, f"{colour} is nowhere on the sheet"
    return box


def size_of(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def has_ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return sheet.crop(box).getextrema() != ((255, 255),) * 3


def test_rows_are_under_each_other_and_columns_beside_each_other() -> None:
    sheet = contact_sheet(
        [("a toy", [plain(RED), plain(GREEN)]), ("a gpu", [plain(BLUE), plain(ORANGE)])], ("before", "after"), cell=64
    )
    red, green, blue, orange = (box_of(sheet, colour) for colour in (RED, GREEN, BLUE, ORANGE))
    assert {size_of(box) for box in (red, green, blue, orange)} == {(64, 64)}
    assert red[0] == blue[0] < red[2] < green[0] == orange[0]
    assert red[1] == green[1] < red[3] < blue[1] == orange[1]
    assert orange[2] < sheet.width
    assert orange[3] <= sheet.height


def test_every_title_stands_above_its_pictures() -> None:
    pictures = [plain(RED), plain(GREEN)]
    red, green = (box_of(contact_sheet([("", pictures)], ("", ""), cell=64), colour) for colour in (RED, GREEN))
    above_red, above_green = (red[0], 0, red[2], red[1]), (green[0], 0, green[2], green[1])

    def ink(row: str, columns: tuple[str, str]) -> tuple[bool, bool]:
        sheet = contact_sheet([(row, pictures)], columns, cell=64)
        return has_ink(sheet, above_red), has_ink(sheet, above_green)

    assert ink("", ("", "")) == (False, False)
    assert ink("", ("before", "")) == (True, False)
    assert ink("", ("", "after")) == (False, True)
    assert ink("a toy", ("", "")) == (True, False)


def test_the_sheet_grows_by_its_rows_and_columns() -> None:
    def size(rows: int, columns: int, cell: int) -> tuple[int, int]:
        return contact_sheet([("", [plain(RED)] * columns)] * rows, [""] * columns, cell).size

    one = size(1, 1, 64)
    assert size(1, 3, 64)[0] - size(1, 2, 64)[0] == size(1, 2, 64)[0] - one[0] > 64
    assert size(3, 1, 64)[1] - size(2, 1, 64)[1] == size(2, 1, 64)[1] - one[1] > 64
    assert size(1, 1, 100) == (one[0] + 36, one[1] + 36)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1216, 832), (64, 44)), ((832, 1216), (44, 64)), ((1024, 1024), (64, 64)), ((16, 32), (32, 64))],
)
def test_a_picture_keeps_its_shape_and_its_longer_side_fills_the_cell(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert size_of(box_of(contact_sheet([("", [plain(RED, size)])], [""], cell=64), RED)) == shown


def test_a_small_picture_is_enlarged_in_sharp_squares() -> None:
    chequered = Image.new("RGB", (2, 2), RED)
    chequered.putpixel((0, 0), BLUE)
    chequered.putpixel((1, 1), BLUE)
    sheet = contact_sheet([("", [chequered])], [""], cell=64)
    cell = sheet.crop(box_of(sheet, BLUE))
    assert cell.size == (64, 64)
    assert sorted(cell.getcolors() or []) == sorted([(2048, BLUE), (2048, RED)])
    assert cell.getpixel((31, 31)) == BLUE
    assert cell.getpixel((32, 31)) == RED


def test_a_picture_without_a_colour_keeps_its_brightness() -> None:
    sheet = contact_sheet([("", [Image.new("L", (64, 64), 90)])], [""], cell=64)
    assert size_of(box_of(sheet, (90, 90, 90))) == (64, 64)
    assert sheet.getpixel((0, 0)) == WHITE


def test_a_place_without_a_picture_stays_empty() -> None:
    sheet = contact_sheet([("", [None, plain(RED)]), ("", [None, None])], ["", ""], cell=64)
    left, top, right, bottom = box_of(sheet, RED)
    assert not has_ink(sheet, (0, 0, left, sheet.height))
    assert size_of((left, top, right, bottom)) == (64, 64)


def test_a_title_that_is_wider_than_the_sheet_takes_several_lines() -> None:
    def sheet(title: str) -> Image.Image:
        return contact_sheet([(title, [plain(RED)])], [""], cell=128)

    short, long = sheet("a toy"), sheet("a toy on a beach beside another toy on a beach")
    assert long.width == short.width
    assert long.height > short.height
    assert not has_ink(long, (long.width - 6, 0, long.width, long.height))


def test_a_row_of_wide_pictures_is_lower() -> None:
    wide, square = (contact_sheet([("", [plain(RED, size)])], [""], cell=64) for size in ((64, 32), (64, 64)))
    assert square.height - wide.height == 32
