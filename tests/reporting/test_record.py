"""What a run left, read: which run is meant, how far it is, what its parts add up to, and nothing private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxbooth.errors import UserError
from fluxbooth.host.files import held_alone
from fluxbooth.judging.scores import save_scores, scores_path
from fluxbooth.reporting.record import find_run, read_run, without_folders
from reporting.made_run import TOY, make_run, make_scores, write_sessions


def test_without_a_name_the_run_that_was_worked_on_last_is_meant(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        run = make_run(tmp_path / name, rounds=())
        for file in (run / "run.toml", run / "logs/steps.jsonl"):
            os.utime(file, (1e9 - age, 1e9 - age))
    assert find_run(tmp_path, None) == (tmp_path / "new", ["middle", "old"])
    assert find_run(tmp_path, "old")[0] == tmp_path / "old"
    assert find_run(tmp_path, f"{tmp_path}/old/")[0] == tmp_path / "old"


def test_a_run_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is there yet"):
        find_run(tmp_path, None)
    make_run(tmp_path / "mokka", rounds=())
    with pytest.raises(UserError, match=r"no run 'moka'. Allowed: mokka .*Did you mean 'mokka'\?"):
        find_run(tmp_path, "moka")


def test_a_run_is_finished_or_stopped_or_goes_on(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "whole", rounds=())).state == "finished"
    stopped = make_run(tmp_path / "half", done=40, rounds=())
    assert read_run(stopped).state == "stopped"
    assert read_run(stopped).done == 40
    with held_alone(stopped):
        assert read_run(stopped).state == "going on"
    assert read_run(stopped).state == "stopped"


def test_a_run_that_ended_early_because_it_got_no_better_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "early", done=40, rounds=())
    write_sessions(run, [100.0], finished=True)
    assert read_run(run).state == "finished"


def test_of_a_run_without_sessions_the_steps_tell(tmp_path: Path) -> None:
    for done, state in ((100, "finished"), (40, "stopped")):
        run = make_run(tmp_path / state, done=done, rounds=())
        (run / "logs/sessions.json").unlink()
        assert read_run(run).state == state


def test_a_run_that_has_only_begun_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "begun", rounds=(), done=0)
    (run / "logs/evaluations.jsonl").unlink()
    (run / "concepts/concepts.json").unlink()
    (run / "logs/sessions.json").unlink(missing_ok=True)
    record = read_run(run)
    assert (record.done, record.evaluations, record.samples, record.concepts, record.joules) == (0, [], [], [], {})


def test_sessions_add_up_and_a_part_that_one_session_does_not_tell_of_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=())
    write_sessions(run, [100.0, 50.0], [{"GPU": 3e6, "processor": 1.0}, {"GPU": 6e5}])
    record = read_run(run)
    assert record.seconds == 150
    assert record.joules == {"GPU": 3.6e6}


def test_lines_that_a_kill_cut_are_passed_over_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4, rounds=())
    with (run / "logs/steps.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [step for step, _ in read_run(run).losses] == [1, 2, 3, 4]
    last = (run / "logs/evaluations.jsonl").read_text().splitlines()[-1]
    with (run / "logs/evaluations.jsonl").open("a") as file:
        file.write(last.replace('"mean": ', '"mean": 7') + "\n")
    record = read_run(run)
    assert len({one.step for one in record.evaluations}) == len(record.evaluations)
    assert record.evaluations[-1].mean > 70


def test_samples_are_known_by_their_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "samples/grid.png").write_bytes(b"")
    samples = read_run(run).samples
    assert [(one.number, one.step, one.seed) for one in samples] == [(n, s, 7) for n in (1, 2) for s in (0, 50, 100)]
    assert samples[0].prompt == f"{TOY} on a beach"


def test_scores_of_an_earlier_training_of_this_name_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=())
    write_sessions(run, [100.0])  # begun in January 2025
    save_scores(run, make_scores(run, (50, 100), 50))
    assert not read_run(run).scores_are_older
    os.utime(scores_path(run), (1.7e9, 1.7e9))  # 2023
    assert read_run(run).scores_are_older


@pytest.mark.parametrize(
    ("model", "flag"),
    [("flux-dev", ""), ("miniature", " --model miniature"), ("/home/me/mine", " --model PATH/TO/mine")],
)
def test_the_command_that_repeats_a_run_names_its_model(tmp_path: Path, model: str, flag: str) -> None:
    run = make_run(tmp_path / "mokka", rounds=(), model=model)
    assert read_run(run).command == f"fluxbooth train{flag} --recipe runs/mokka/run.toml"


def test_a_damaged_run_toml_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=())
    (run / "run.toml").write_text("[recipe")
    with pytest.raises(UserError, match=r"run\.toml: cannot be read"):
        read_run(run)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jo doe/x y/z.safetensors", "z.safetensors"),
        ("~/data.toml", "data.toml"),
        ("C:\\Users\\jo\\data.toml", "data.toml"),
        ("start=/home/jo/a.safetensors", "start=a.safetensors"),
        ("../jo/data.toml", "data.toml"),
        ("train_blocks=single", "train_blocks=single"),
        ("AdamW", "AdamW"),
    ],
)
def test_of_a_path_its_last_name_is_shown(text: str, shown: str) -> None:
    assert without_folders(text) == shown
