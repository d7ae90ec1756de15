"""A run's page in a real browser: on a phone and on a wide screen, light and dark, by mouse and by key."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxbooth.host.files import held_alone
from fluxbooth.judging.scores import save_scores
from fluxbooth.reporting.page import write_report
from reporting.browser import PROGRAM, Tab, open_browser
from reporting.made_run import make_run, make_scores
from reporting.test_page import EVIL_ATTRIBUTE, EVIL_TAG

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine")
PHONE, NARROW_PHONE, WIDE = 390, 360, 1400


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """One tab for all tests: the browser takes a second to come up."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, open_browser(Path(profile)) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it, long words and a user's markup among them."""
    run = make_run(
        tmp_path_factory.mktemp("runs") / ("long_name_" * 9),
        prompts=("tjtoy toy on a beach", EVIL_TAG + "pneumonoultramicroscopicsilicovolcanoconiosis" * 4),
        concepts=("tjtoy toy", EVIL_ATTRIBUTE),
        caption=EVIL_TAG,
        rounds=range(0, 101, 10),
    )
    save_scores(run, make_scores(run, (50, 100), 50))
    return write_report(run)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [NARROW_PHONE, PHONE, WIDE])
def test_it_fits_asks_for_nothing_and_complains_of_nothing(tab: Tab, page: Path, width: int, dark: bool) -> None:
    tab.open(page, width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    beyond = """[...document.querySelectorAll("main *, header *, footer *")].filter((one) =>
        !one.closest(".wide, nav, svg") && one.getBoundingClientRect().right > innerWidth + 1).length"""
    assert tab.run(beyond) == 0
    assert [address for address in tab.requests() if not address.startswith("data:")] == [page.as_uri()]
    assert tab.complaints() == []
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
    )
    assert tab.run("[...document.images].every((one) => !one.src || one.naturalWidth > 0)")


def test_a_picture_is_enlarged_beside_the_base_models_and_the_keys_walk(tab: Tab, page: Path) -> None:
    tab.open(page, WIDE)
    tab.run("document.querySelectorAll('#pictures .strip')[0].querySelectorAll('.shot')[5].click()")
    shown = """[large.open, document.querySelector('.this figcaption').textContent.trim(),
        !document.querySelector('.other').hidden]"""
    assert tab.run(shown) == [True, "step 50 best", True]
    assert tab.run("document.querySelector('.other img').src === document.querySelector('#pictures .shot img').src")
    tab.press("ArrowRight")
    assert tab.run(shown) == [True, "step 60", True]
    for _ in range(6):
        tab.press("ArrowLeft")
    assert tab.run(shown) == [True, "base model", False], "the base model's own has nothing beside it"
    tab.press("ArrowDown")
    assert tab.run("document.querySelector('.what').textContent").startswith(EVIL_TAG)
    tab.press("Escape")
    tab.until("!large.open")
    tab.until("document.activeElement.dataset.about?.startsWith('<script>')")  # the focus is where the eye is
    tab.press("Enter")  # the keyboard opens it, too
    tab.until("large.open")
    tab.run("document.querySelector('.close').click()")
    tab.until("!large.open")


def test_an_enlarged_pair_fits_on_a_phone(tab: Tab, page: Path) -> None:
    tab.open(page, NARROW_PHONE, height=640)
    tab.run("document.querySelectorAll('#pictures .shot')[5].click()")
    box = tab.run("(({left, right, top, bottom}) => [left, right, top, bottom])(large.getBoundingClientRect())")
    assert box[0] >= 0
    assert box[1] <= NARROW_PHONE
    assert box[2] >= 0
    assert box[3] <= 640
    assert tab.run("large.scrollWidth <= large.clientWidth")


def test_a_live_page_loads_itself_and_stays_where_it_was_scrolled_to(tab: Tab, tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", done=40)
    with held_alone(run):
        page = write_report(run, reload_every=1)
    tab.open(page, PHONE)
    tab.run("document.querySelector('#loss details').open = true")
    tab.run("scrollTo({ top: 30 + scrollY + document.querySelector('#loss').getBoundingClientRect().top })")
    tall = tab.run("document.documentElement.scrollHeight")
    write_report(run)
    tab.until("document.readyState === 'complete' && document.querySelector('h2').textContent === 'At step 40 of 100'")
    assert tab.run("document.documentElement.scrollHeight") > tall, "what stands above has grown"
    at = "Math.round(document.querySelector('#loss').getBoundingClientRect().top)"
    assert tab.run(f"[{at}, document.querySelector('#loss details').open]") == [-30, True]
    assert tab.complaints() == []


def test_a_live_page_that_nobody_writes_any_more_says_so(tab: Tab, tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", done=40, rounds=())
    with held_alone(run):
        page = write_report(run, reload_every=1)
    text = page.read_text(encoding="utf-8")
    written = text.split('data-written="')[1].split('"')[0]
    page.write_text(text.replace(f'data-written="{written}"', f'data-written="{int(written) - 600}"'), encoding="utf-8")
    tab.open(page, PHONE)
    tab.until("document.querySelector('.news').textContent.startsWith('No news for 10 minutes')")
