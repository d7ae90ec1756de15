"""The words around a caption: a prefix, a suffix, and in them a concept's class tokens."""

from __future__ import annotations

from dataclasses import dataclass

TRIGGER = "[trigger]"
"""Stands in a prefix or suffix for the concept's class tokens."""


@dataclass(frozen=True)
class Wording:
    """What stands before and after each caption; empty for nothing."""

    prefix: str = ""
    suffix: str = ""

    @property
    def names_trigger(self) -> bool:
        """Whether `[trigger]` stands in it."""
        return TRIGGER in self.prefix + self.suffix

    def with_trigger(self, class_tokens: str) -> Wording:
        """Return the same words with `class_tokens` for `[trigger]`."""
        return Wording(self.prefix.replace(TRIGGER, class_tokens), self.suffix.replace(TRIGGER, class_tokens))

    def around(self, caption: str) -> str:
        """Return prefix, caption and suffix as one line.

        A single space joins what is not empty; none stands before a comma.
        """
        line = ""
        for part in (" ".join(part.split()) for part in (self.prefix, caption, self.suffix)):
            line += f" {part}" if line and part and not part.startswith(",") else part
        return line
