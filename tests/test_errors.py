"""What is wrong, where, what is allowed, what to do: in one sentence each, and all problems at once."""

from __future__ import annotations

import errno
import os

import pytest

from fluxbooth.errors import Problem, Problems, UserError, did_you_mean, of_files


def test_a_problem_says_where_what_is_wrong_what_is_allowed_and_what_to_do() -> None:
    problem = Problem(
        "network_dim is 0", where="recipes/mine.toml, line 3", allowed="1 or more", do="Start with network_dim = 16"
    )
    assert str(problem) == (
        "recipes/mine.toml, line 3: network_dim is 0. Allowed: 1 or more. Start with network_dim = 16."
    )


def test_parts_that_are_not_known_leave_no_trace() -> None:
    assert str(Problem("the disk is full")) == "the disk is full."
    assert str(Problem("no recipe 'playbok'", do="Did you mean 'playbook'?")) == (
        "no recipe 'playbok'. Did you mean 'playbook'?"
    )


def read_a_file_with_two_problems() -> None:
    raise UserError([Problem("the second"), Problem("the third")])


def test_gathered_problems_are_raised_all_at_once_in_the_order_they_were_found() -> None:
    problems = Problems()
    problems.add("the first", where="a.toml")
    with problems.gathered():
        read_a_file_with_two_problems()
    problems.add("the fourth", do="Mend it")

    with pytest.raises(UserError) as raised:
        problems.raise_if_any()

    assert str(raised.value).splitlines() == ["a.toml: the first.", "the second.", "the third.", "the fourth. Mend it."]
    assert [problem.what for problem in raised.value.problems] == ["the first", "the second", "the third", "the fourth"]


def test_nothing_is_raised_where_nothing_was_found() -> None:
    problems = Problems()
    with problems.gathered():
        pass
    problems.raise_if_any()


def test_gathering_lets_every_other_error_through() -> None:
    problems = Problems()
    with pytest.raises(ZeroDivisionError), problems.gathered():
        raise ZeroDivisionError
    problems.raise_if_any()


def test_a_user_error_without_a_problem_is_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        UserError([])


def test_the_nearest_known_word_is_offered_and_nothing_when_none_is_near() -> None:
    known = ["learning_rate", "lr_scheduler", "network_dim"]
    assert did_you_mean("learning_rat", known) == "Did you mean 'learning_rate'?"
    assert did_you_mean("netwerk_dim", known) == "Did you mean 'network_dim'?"
    assert did_you_mean("resolution", known) == ""
    assert did_you_mean("anything", []) == ""


@pytest.mark.parametrize(
    ("number", "file", "said"),
    [
        (errno.ENOSPC, "runs/a.log", "runs/a.log: No space left on device. Make room there."),
        (errno.ENOSPC, None, "No space left on device. Make room on the disk."),
        (errno.ENOENT, "runs", "runs: No such file or directory. Bring it back."),
        (errno.EROFS, "runs", f"runs: Read-only file system. Let user {os.getuid()} read and write there."),
        (errno.ENAMETOOLONG, "a", "a: File name too long."),
    ],
)
def test_what_the_system_refuses_at_a_file_is_said_with_what_to_do(number: int, file: str | None, said: str) -> None:
    assert str(of_files(OSError(number, os.strerror(number), file))) == said


def test_an_error_of_no_file_is_left_alone() -> None:
    assert of_files(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))) is None
    assert of_files(OSError("something")) is None
