"""What a user can mend, said once and whole: what is wrong, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing the user can mend."""

    what: str
    """What is wrong, with the value found. A sentence without its full stop."""
    where: str = ""
    """File, line, table and key, as far as they are known."""
    allowed: str = ""
    """What would be accepted instead."""
    do: str = ""
    """What to do now."""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        sentences = [self.what, f"Allowed: {self.allowed}" if self.allowed else "", self.do]
        return place + " ".join(text if text[-1] in ".?!" else f"{text}." for text in sentences if text)


class UserError(Exception):
    """One or more problems; the command line prints them without a traceback and exits with 1."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("a UserError needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """Gathers problems so that the user reads all of them at once."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, what: str, *, where: str = "", allowed: str = "", do: str = "") -> None:
        """Remember one problem."""
        self._found.append(Problem(what, where, allowed, do))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Remember the problems of a UserError raised inside, and go on behind the block."""
        try:
            yield
        except UserError as error:
            self._found.extend(error.problems)

    @property
    def found(self) -> tuple[Problem, ...]:
        """What was gathered so far."""
        return tuple(self._found)

    def raise_if_any(self) -> None:
        """Raise what was gathered.

        Raises:
            UserError: when at least one problem was added.
        """
        if self._found:
            raise UserError(self._found)


def of_files(error: OSError) -> Problem | None:
    """Say what the system refused, at which file, and what to do about it; None for an error that is of no file."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            do = "Make room there" if error.filename else "Make room on the disk"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            do = f"Let user {os.getuid()} read and write there"
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE | errno.ENODEV:
            do = "Bring it back"
        case _ if error.filename:
            do = ""
        case _:
            return None
    return Problem(error.strerror or str(error), where=str(error.filename or ""), do=do)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" for the nearest of `known`, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def counted(number: int, noun: str) -> str:
    """Spell a number with its noun: "1 picture", "2,000 pictures"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
