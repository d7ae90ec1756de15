"""The report page: whole in one file, and nothing in it is taken for markup."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

from fluxbooth.judging.page import Strip, write_page


def test_pictures_and_numbers_are_inside_the_file(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    large = Image.new("RGB", (3000, 2000), "red")
    strip = Strip("<tjtoy> & co", [("without", [large]), ("with", [blue, red])])
    write_page(tmp_path / "report.html", "Title", "Summary", ("one", "two"), [("identity", ("7 %", "93 %"))], [strip])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>&lt;tjtoy&gt; &amp; co</h2>" in page
    assert "7 %" in page
    assert "93 %" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    decoded = [Image.open(io.BytesIO(base64.b64decode(picture))).getpixel((0, 0)) for picture in pictures]
    assert decoded == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    assert len(page) < 10_000, "a large picture is made smaller"
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs no network"
