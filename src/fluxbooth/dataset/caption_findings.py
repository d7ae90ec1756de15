"""What is odd about captions and made-up words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from fluxbooth.dataset.captions import Moment, seen_caption
from fluxbooth.dataset.common_words import COMMON_WORDS
from fluxbooth.dataset.findings import Finding, Subset
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES
from fluxbooth.errors import counted

_CAPTION_ENDINGS = (".txt", ".caption", ".cap")
_AROUND_A_WORD = ".,;:!?\"'()[]{}|"


def whole_captions(item: Item) -> list[str]:
    """Return an item's captions with nothing dropped and nothing shuffled; of each `{a|b}` the longest.

    One for each line where wildcards are on, else one.
    """
    spec = item.caption_spec
    lines = item.caption.split("\n")
    if spec.wildcard:
        lines = [
            re.sub(r"(?<!\{)\{([^{}]+)\}", lambda found: max(found[1].split("|"), key=len), line) for line in lines
        ]
    steady = replace(
        spec,
        dropout_rate=0.0,
        dropout_every_n_epochs=0,
        wildcard=False,
        shuffle=False,
        tag_dropout_rate=0.0,
        warmup_step=0.0,
    )
    return [seen_caption(line, steady, Moment(0, 0, 1), random.Random(0)) for line in lines]


def of_caption_files(subsets: Sequence[Subset]) -> Iterator[Finding]:
    """Say which caption files are not read: of another ending, or without a picture; and which begin with nothing."""
    for subset in subsets:
        ending = subset.spec.caption_extension
        try:
            names = {file.name for file in subset.spec.image_dir.iterdir()}
        except OSError:
            continue  # a problem of its own
        stems = {item.path.stem for item in subset.items}
        for other in (one for one in _CAPTION_ENDINGS if one != ending):
            unread = [stem for stem in stems if stem + other in names]
            alone = sorted(stem + other for stem in unread if stem + ending not in names)
            if alone:
                yield Finding(
                    "warning",
                    f"{counted(len(alone), 'caption')} in {other} files {_is(alone)} not read ({_some(alone)})",
                    str(subset.spec.image_dir),
                    f'Set caption_extension = "{other}" to read them',
                    "unread captions",
                )
            elif unread:
                yield Finding(
                    "note",
                    f"has caption files in {other} and {ending}, of which those in {ending} are read",
                    str(subset.spec.image_dir),
                    kind="captions of two endings",
                )
        pictures = {Path(name).stem for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES}
        spare = sorted(name for name in names if name.endswith(ending) and name.removesuffix(ending) not in pictures)
        if spare:
            yield Finding(
                "note",
                f"{counted(len(spare), 'caption file')} {_is(spare)} beside no picture ({_some(spare)})",
                str(subset.spec.image_dir),
                kind="spare captions",
            )
        for item in subset.items:
            file = item.path.with_suffix(ending)
            if file.name in names and not item.caption_spec.wildcard and _begins_with_nothing(file):
                yield Finding(
                    "warning",
                    "begins with an empty line, which kohya's scripts take for the whole caption; "
                    f"here it is '{item.caption}'",
                    str(file),
                    "Remove the empty line",
                    "empty first line",
                )


def of_captions(subsets: Sequence[Subset]) -> Iterator[Finding]:
    """Say which captions lack their concept's made-up word, which have another's, and which keys have no effect."""
    words: dict[str, str] = {}
    for subset in subsets:
        if subset.word and subset.word.lower() not in COMMON_WORDS:
            words.setdefault(subset.word.lower(), subset.name)
    for subset in subsets:
        for item in subset.items:
            captions = whole_captions(item)
            where = _where_of_caption(item)
            own = subset.word
            if own and own.lower() not in COMMON_WORDS:
                lacking = [caption for caption in captions if not _has(caption, own)]
                if lacking:
                    yield Finding(
                        "warning",
                        f"the caption '{lacking[0]}' lacks '{own}'",
                        where,
                        f"Write '{subset.spec.class_tokens}' into it, or set caption_prefix",
                        "word missing",
                    )
            for word in sorted({word for caption in captions for word in _words_of(caption)} & words.keys()):
                if subset.spec.is_reg:
                    yield Finding(
                        "warning",
                        f"the caption of a regularization picture has '{word}', the made-up word of '{words[word]}'",
                        where,
                        "Name the plain noun alone: these pictures hold what it means",
                        "word in regularization",
                    )
                elif word != own.lower() and words[word] != subset.name:
                    yield Finding(
                        "warning",
                        f"the caption of '{subset.name}' has '{word}', the made-up word of '{words[word]}'",
                        where,
                        "Right where the picture shows both; else write what it shows",
                        "word of another",
                    )
        spec = subset.spec.caption
        if spec.keep_tokens and not (spec.shuffle or spec.tag_dropout_rate or spec.warmup_step):
            yield Finding(
                "note",
                f"keep_tokens = {spec.keep_tokens} has no effect: nothing moves or drops the tags",
                subset.spec.where,
                "Remove it, or set shuffle_caption = true",
                "keep_tokens",
            )


def of_words(subsets: Sequence[Subset]) -> Iterator[Finding]:
    """Say which class tokens are of one word, which made-up words are plain English, and which are too near."""
    named = {subset.name: subset for subset in reversed(subsets) if subset.word}
    for subset in reversed(named.values()):
        tokens, word, where = subset.spec.class_tokens, subset.word, subset.spec.where
        if word.lower() in COMMON_WORDS:
            yield Finding(
                "warning",
                f"class_tokens '{tokens}' begins with '{word}', a plain English word, whose meaning would change",
                where,
                "Begin with a word that nobody uses, then the plain noun: 'mokka dog'",
                "plain word",
            )
        elif " " not in tokens:
            yield Finding(
                "note",
                f"class_tokens '{tokens}' is one word, and does not say what kind of thing it is",
                where,
                f"Write the plain noun behind it: '{tokens} dog'",
                "one word",
            )
    for (name, subset), (other_name, other) in combinations(list(reversed(named.items())), 2):
        word, other_word = subset.word.lower(), other.word.lower()
        if {word, other_word} & COMMON_WORDS:
            continue
        if word == other_word:
            what = f"'{name}' and '{other_name}' have one made-up word, '{other.word}'"
        elif word in other_word or other_word in word:
            longer, shorter = sorted((subset.word, other.word), key=len, reverse=True)
            what = f"the made-up word '{longer}' has the other concept's '{shorter}' in it"
        else:
            continue
        yield Finding(
            "warning",
            what,
            other.spec.where,
            "Take words that share little: the text encoders read them in pieces",
            "words too near",
        )


def _with_longest_choices(line: str) -> str:
    return re.sub(r"(?<!\{)\{([^{}]+)\}", lambda found: max(found[1].split("|"), key=len), line)


def _has(caption: str, word: str) -> bool:
    """Whether a caption has a word, in the same letters: T5 tells capitals from small ones."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption) is not None


def _words_of(caption: str) -> set[str]:
    words = {word.strip(_AROUND_A_WORD) for word in caption.lower().split()}
    return words | {word.removesuffix("'s") for word in words}


def _where_of_caption(item: Item) -> str:
    file = item.path.with_suffix(item.caption_extension)
    return str(file if file.is_file() else item.path)


def _begins_with_nothing(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return not lines.readline().strip()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
