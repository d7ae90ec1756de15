"""What a run's page says: the verdict first, every section or the command that brings it, nothing private, no markup
of a user's."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fluxbooth.host.files import held_alone
from fluxbooth.judging.comparison import Comparison, Fact, Strip, save_comparison
from fluxbooth.judging.scores import Verdict, save_scores, scores_path
from fluxbooth.reporting.page import write_report
from reporting.made_run import GPU, TOY, make_run, make_scores, write_sessions

EVIL_TAG, EVIL_ATTRIBUTE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'


@dataclass
class Page(HTMLParser):
    """A page as a browser takes it apart."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """What is there to read, its white space made even."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [own for name, own in self.tags if name == tag and having.items() <= own.items()]


def page_of(run: Path, **how: int) -> Page:
    page = Page()
    page.feed(write_report(run, **how).read_text(encoding="utf-8"))
    return page


def test_a_run_without_scores_says_which_file_is_there_and_what_would_judge_it(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "mokka")).text
    assert "Use mokka.safetensors the last step, not judged yet" in text
    assert "fluxbooth score mokka" in text
    assert "The loss on the evaluation set went from 1.000 to 0.333 (−67%) by step 100." in text


def test_pictures_held_out_have_a_sentence_and_a_line_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    file = run / "logs/evaluations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        means = {
            "mean": 1.0 + line["step"] / 1000,
            "sigmas": {},
            "concepts": {TOY: 1.5},
            "pictures": {"toy/9.png": 1.5},
        }
        line["held_out"] = means
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page_of(run).text
    assert "On 1 picture held out it went from 1.000 to 1.100 (+10%)" in text
    assert f"{TOY}, held out" in text


def test_a_scored_run_begins_with_the_best_and_how_sure_that_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    save_scores(run, make_scores(run, (25, 50, 100), 50))
    text = page_of(run).text
    above, below = text.split("Pictures over the steps")
    assert "mokka-best.safetensors" in above
    assert "step 50 of 100" in above
    assert "stands out from the others" in above or "no difference to step" in above
    assert f"Step 50 has the highest mark of its worst concept, {TOY}." in above
    assert "overbaked from step 100 on" in above
    assert "strength 0.8" in above
    assert "'sparkgpu gpu' looks like tjtoy toy" in below
    assert "fluxbooth score" not in text


def test_checkpoints_without_a_difference_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    scores = make_scores(run, (25, 50, 100), 50)
    files = tuple(one.file for one in scores.checkpoints)
    verdict = Verdict(files[0], 25, "mokka-best.safetensors", "No difference.", files, None, "")
    save_scores(run, type(scores)(**{**vars(scores), "verdict": verdict}))
    assert "no difference to steps 50 and 100" in page_of(run).text


def test_the_matrix_has_its_numbers_and_marks_what_was_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    save_scores(run, make_scores(run, (50, 100), 50))
    page = page_of(run)
    cells = [own for own in page.all("td") if "--heat" in own.get("style", "")]
    assert len(cells) == 2 * 7 * 2, "two checkpoints, seven rows, two concepts"
    framed = [own["style"] for own in cells if "own" in own["class"]]
    assert framed == ["--heat: 80%", "--heat: 90%", "--heat: 60%", "--heat: 70%"] * 2
    assert "0.50 0.47 to 0.53" in page.text


def test_missing_sections_say_which_command_brings_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=(), concepts=())
    (run / "logs/evaluations.jsonl").unlink()
    text = page_of(run).text
    for command in ("--sample_every_n_steps 250", "--validate_every_n_steps 50", "fluxbooth score mokka"):
        assert command in text
    assert "This run's folder has no pictures of what it was trained on" in text


def test_a_run_that_goes_on_shows_how_far_and_loads_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", done=40, rounds=())
    write_sessions(run, [240.0])
    with held_alone(run):
        page = page_of(run, reload_every=20)
    assert "Training goes on Step 40 of 100" in page.text
    assert "about 6.0 minutes left" in page.text
    assert page.all("progress")[0]["value"] == "0.4000"
    assert page.all("body")[0]["data-reload"] == "20"
    assert "data-reload" not in page_of(run).all("body")[0], "once it has ended it stays as it is"


def test_a_run_that_is_scored_while_it_goes_on_has_a_best_so_far(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", done=60)
    save_scores(run, make_scores(run, (20, 40, 60), 40))
    with held_alone(run):
        page = page_of(run)
    assert "Best so far mokka-best.safetensors" in page.text
    assert page.all("progress")[0]["value"] == "0.6000"


def test_scores_of_an_earlier_training_are_not_shown_as_this_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    save_scores(run, make_scores(run, (50, 100), 50))
    os.utime(scores_path(run), (1.7e9, 1.7e9))  # before the run began
    text = page_of(run).text
    assert "The scores in its folder are those of an earlier training of this name." in text
    assert "mokka-best.safetensors" not in text


def test_a_stopped_run_says_how_it_goes_on(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "mokka", done=40, rounds=())).text
    assert "Stopped At step 40 of 100" in text
    assert "fluxbooth train --model miniature --recipe runs/mokka/run.toml" in text


def test_time_and_energy_are_those_of_all_sessions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=())
    write_sessions(run, [5400.0, 3600.0], [{"GPU": 1.8e6, "processor": 3.6e5}, {"GPU": 1.8e6, "processor": 3.6e5}])
    text = page_of(run).text
    assert "2.5 hours in 2 sessions" in text
    assert "1.20 kWh (GPU 1.00, processor 0.20)" in text
    assert "NVIDIA GB10; aarch64, 20 threads, 119 GiB of memory" in text


def test_where_the_machine_does_not_tell_nothing_is_said_of_energy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=())
    write_sessions(run, [5400.0])
    assert "kWh" not in page_of(run).text


def test_every_value_of_the_recipe_says_where_it_came_from(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "mokka", rounds=())).text
    assert "learning_rate 0.0001 mine.toml" in text
    assert "output_name mokka flag" in text
    assert "1 values left at their defaults network_dim 16" in text


def test_nothing_of_where_the_files_are_is_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=(0, 100))
    save_scores(run, make_scores(run, (50, 100), 50))
    page = write_report(run).read_text(encoding="utf-8")
    assert "p.txt" in page
    for private in (str(tmp_path), "/home/me", "my prompts"):
        assert private not in page


def test_words_of_the_user_are_text_and_never_markup(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "mokka", concepts=(EVIL_ATTRIBUTE, TOY), caption=EVIL_TAG, prompts=(EVIL_TAG, EVIL_ATTRIBUTE)
    )
    comparison = Comparison(EVIL_TAG, (Fact(EVIL_ATTRIBUTE, EVIL_TAG, "1"),), (Strip(EVIL_TAG, ("a",), ("b",)),))
    save_comparison(run, comparison)
    page = page_of(run)
    assert len(page.all("script")) == 1
    assert [own for _, own in page.tags if any(name.startswith("on") for name in own)] == []
    assert all(own.get("src", "").startswith("data:image/webp") for own in page.all("img") if "src" in own)
    assert EVIL_TAG in page.text
    assert EVIL_ATTRIBUTE in page.text


def test_the_page_needs_nothing_beside_it_and_allows_nothing_else(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "mokka"))
    addresses = [own[name] for _, own in page.tags for name in ("src", "href") if name in own]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_every_link_inside_the_page_has_its_place(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka")
    save_scores(run, make_scores(run, (50, 100), 50))
    page = page_of(run)
    places = [own["id"] for _, own in page.tags if "id" in own]
    assert len(places) == len(set(places))
    links = [own["href"][1:] for own in page.all("a") if own["href"].startswith("#")]
    assert len(links) >= 7
    assert set(links) <= set(places)
    besides = [own["data-beside"] for own in page.all("button") if "data-beside" in own]
    assert besides
    assert set(besides) <= set(places)


def test_the_pictures_that_were_learned_least_come_with_their_captions(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "mokka", rounds=(), caption="in the fog")).text
    assert "Learned least" in text
    least = text.split("Learned least")[1].split("Concepts")[0]
    assert least.index("toy/1.png") < least.index("gpu/2.png")
    assert "tjtoy toy in the fog" in least


def test_the_workflow_inside_loads_the_best_at_its_strength(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", model="flux-dev", rounds=())
    save_scores(run, make_scores(run, (50, 100), 50))
    page = page_of(run)
    (link,) = page.all("a", download="mokka.json")
    workflow = json.loads(base64.b64decode(link["href"].split(",")[1]))
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "LoraLoader"]
    assert loader["widgets_values"] == ["mokka-best.safetensors", 0.8, 0.8]
    assert "fluxbooth train --recipe runs/mokka/run.toml" in page.text


def test_the_miniature_has_no_workflow_but_a_command(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "mokka", rounds=()))
    assert not [own for own in page.all("a") if "download" in own]
    assert "fluxbooth generate --model miniature --width 96 --height 96 --prompt 'tjtoy toy'" in page.text


def test_a_comparison_stands_on_the_page_with_its_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=(0, 100))
    pictures = [f"samples/step{step:08d}_01_seed7.png" for step in (0, 100)]
    strips = (Strip(f"{TOY} on a beach", (pictures[0],), (pictures[1],)),)
    save_comparison(run, Comparison("Judged by CLIP.", (Fact("identity", "7%", "93%"),), strips))
    page = page_of(run)
    assert "Trained mokka.safetensors Judged by CLIP." in page.text
    assert "identity 7% 93%" in page.text
    assert page.all("div", **{"class": "trio"}), "a training picture, without and with the LoRA"
    assert GPU in page.text


@pytest.mark.slow
def test_a_hundred_large_pictures_stay_below_nine_megabytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mokka", rounds=range(0, 100, 4), prompts=[f"prompt {n}" for n in range(4)], size=1024)
    assert len(list((run / "samples").iterdir())) == 100
    page = write_report(run)
    assert page.stat().st_size < 9_000_000
    side = re.search(r"at most (\d+) pixels", page.read_text(encoding="utf-8"))
    assert side is not None
    assert int(side[1]) >= 128
