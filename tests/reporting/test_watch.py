"""A page that is written while a run goes on, and once more when it has ended."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from fluxbooth.host.files import held_alone
from fluxbooth.reporting.watch import watch
from reporting.made_run import make_run


def test_the_page_follows_the_run_and_stops_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", done=40, rounds=())
    page = run / "report.html"
    with ExitStack() as training:
        training.enter_context(held_alone(run))
        watching = Thread(target=watch, args=(run, 0.05))
        watching.start()
        while not page.is_file():
            time.sleep(0.01)
        assert 'data-reload="1"' in page.read_text(encoding="utf-8")
        with (run / "logs/steps.jsonl").open("a") as file:
            file.writelines(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(41, 71))
        while "Step 70 of 100" not in page.read_text(encoding="utf-8"):
            time.sleep(0.01)
        training.close()
    watching.join()
    assert "data-reload" not in page.read_text(encoding="utf-8").split("<script>")[0]


def test_without_a_training_there_is_one_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=())
    watch(run)
    assert (run / "report.html").is_file()
