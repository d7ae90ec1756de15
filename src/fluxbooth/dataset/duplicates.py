"""Pictures that look nearly the same, found among a hundred thousand without comparing each with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
from PIL import Image

LARGEST_DISTANCE = 4
"""Bits of 64 in which the hashes of two pictures that look nearly the same may differ."""
_BANDS = LARGEST_DISTANCE + 2
"""With two bands more than bits that differ, two bands at least are the same in both."""
_WINDOW = 128
"""Of hashes with the same two bands, how many neighbours each is compared with."""
_OF_ONE_HASH = 8
"""Pictures of one hash that differ otherwise, of which others are compared with the first so many."""
_BITS_OF_BYTE = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)


def difference_hash(picture: Image.Image) -> int:
    """Return 64 bits that say, for 8 x 8 places, whether an RGB picture gets darker to the right.

    The same picture in another size or file format has nearly the same bits.
    """
    grey = np.asarray(picture.resize((9, 8), Image.Resampling.BOX).convert("L")).astype(np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def rough_colours(picture: Image.Image) -> str:
    """Return the mean colours of an RGB picture's 4 x 4 parts: 96 hexadecimal digits."""
    return picture.resize((4, 4), Image.Resampling.BOX).tobytes().hex()


def groups_alike(
    hashes: Sequence[int], also: Callable[[int, int], bool] = lambda _one, _other: True
) -> list[list[int]]:
    """Return the places of hashes that differ in at most four bits, group by group, each in rising order.

    Args:
        hashes: 64 bits each.
        also: says whether two places, whose hashes are near, are alike in all else.
    """
    leaders = list(range(len(hashes)))

    def leader(place: int) -> int:
        while leaders[place] != place:
            leaders[place] = leaders[leaders[place]]
            place = leaders[place]
        return place

    def unite(one: int, other: int) -> bool:
        first, second = sorted((leader(one), leader(other)))
        if first == second or also(one, other):
            leaders[second] = first
            return True
        return False

    different: dict[int, list[int]] = {}
    for place, number in enumerate(hashes):  # many pictures of one hash would make many pairs of them
        known = different.setdefault(number, [])
        if not any(unite(one, place) for one in known[:_OF_ONE_HASH]):
            known.append(place)
    for number, near in _near_pairs(np.array(list(different), dtype=np.uint64)):
        for one in different[number][:_OF_ONE_HASH]:
            for other in different[near][:_OF_ONE_HASH]:
                unite(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(hashes)):
        groups.setdefault(leader(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of near hashes, most of them several times.

    Two hashes that differ in four bits share two of six bands; those with two bands in common stand side by side when
    all are sorted by these bands.
    """
    edges = [round(64 * band / _BANDS) for band in range(_BANDS + 1)]
    masks = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    for one, other in combinations(masks, 2):
        keys = hashes & np.uint64(one | other)
        order = np.lexsort((hashes, keys))
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0]) if len(order) else order
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            run = order[start:end]
            for place in range(len(run) - 1):
                others = run[place + 1 : place + 1 + _WINDOW]
                apart = (hashes[others] ^ hashes[run[place]]).view(np.uint8).reshape(-1, 8)
                near = _BITS_OF_BYTE[apart].sum(axis=1) <= LARGEST_DISTANCE
                yield from ((int(hashes[run[place]]), int(neighbour)) for neighbour in hashes[others[near]])
