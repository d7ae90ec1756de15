"""Scenes at random, from a generator that is given in, and which combinations of attributes they keep away from."""

from dataclasses import replace
from functools import cache
from random import Random

from world.captions import name_thing
from world.drawings.figures import POSES
from world.kinds import KINDS
from world.palette import COLOURS
from world.scene import ALONE, HOLDING, NEXT_TO, ON, Placed, Scene, Thing
from world.surroundings import SURROUNDINGS

_PLACES = {colour: place for place, colour in enumerate(COLOURS)}
_HELD_OUT_EVERY = 6
_RELATION_SHARES = {ALONE: 0.5, NEXT_TO: 0.2, HOLDING: 0.2, ON: 0.1}
_NAMED_OF_A_KIND = 24
_SYLLABLES = ("ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "po", "ra", "sti", "ve", "wo", "xu", "zi")


def is_held_out(thing: Thing) -> bool:
    """Say whether a thing's two first colours are a combination that random scenes never show.

    One in six combinations of every kind is held out, so that a network trained on random scenes can be asked for
    things that it has never seen, each of whose colours it knows.
    """
    (_, first), (_, second) = thing.attributes[:2]
    return (_PLACES[first] + _PLACES[second]) % _HELD_OUT_EVERY == 0


def _is_plain_to_see(thing: Thing) -> bool:
    """Say whether no part of a thing has the colour of the whole, so that every part can be told from the rest."""
    colours = [value for name, value in thing.attributes if name.endswith("colour") or name == "spots"]
    white_on_white = thing.kind == "toy" and thing["mark_colour"] == "white"
    return colours[0] not in colours[1:] and not white_on_white


def random_name(random: Random) -> str:
    """Make up a word of two or three syllables that means nothing."""
    return "".join(random.choice(_SYLLABLES) for _ in range(random.choice((2, 3))))


def random_thing(random: Random, kind: str, held_out: bool = False, name_share: float = 0.0) -> Thing:
    """Draw a thing of a kind by lot: from the held-out combinations or, by default, from all others.

    `name_share`, from 0 to 1, is how many of the things are one of the kind's named things instead.
    """
    while True:
        attributes = tuple((name, random.choice(values)) for name, values in KINDS[kind].attributes.items())
        thing = Thing(kind, attributes)
        if _is_plain_to_see(thing) and is_held_out(thing) == held_out:
            break
    return random.choice(named_things(kind)) if random.random() < name_share else thing


@cache
def named_things(kind: str) -> tuple[Thing, ...]:
    """Return the few things of a kind that have a name and always look alike, so that a name means something."""
    random = Random(f"named {kind}")
    things: dict[str, Thing] = {}
    while len(things) < _NAMED_OF_A_KIND:
        name = random_name(random)
        things[name] = replace(random_thing(random, kind), name=name)
    return tuple(things.values())


def changed_thing(random: Random, thing: Thing) -> Thing:
    """Return a thing with one attribute changed by lot, so that it is called otherwise and its parts are seen."""
    while True:
        name, values = random.choice(tuple(KINDS[thing.kind].attributes.items()))
        value = random.choice(values)
        attributes = tuple((key, value if key == name else kept) for key, kept in thing.attributes)
        changed = Thing(thing.kind, attributes)
        if name_thing(changed) != name_thing(replace(thing, name="")) and _is_plain_to_see(changed):
            return changed


def _fitting(kind: str, width: float, height: float) -> float:
    """Return how high a thing may be to fit into `width` x `height`, shares of the picture's shorter side."""
    return min(height, width / KINDS[kind].width)


def compose(random: Random, surroundings: str, relation: str, first: Thing, second: Thing | None = None) -> Scene:
    """Place one or two things in a picture, large and wholly inside it, with poses and sizes by lot.

    Raises ValueError for a relation between two things where only one is given.
    """
    if relation != ALONE and second is None:
        raise ValueError(f"{relation!r} is said of two things, and only one is given")
    ground = random.uniform(0.86, 0.93)
    mirrored = random.random() < 0.5
    variation = random.randrange(2**31)

    def place(thing: Thing, x: float, width: float, height: float, mirrored: bool, pose: str, turn: float) -> Placed:
        size = _fitting(thing.kind, width, height) * random.uniform(0.86, 1.0)
        return Placed(thing, x, ground, size, random.uniform(-turn, turn), mirrored, pose)

    def free_pose() -> str:
        return random.choice([pose for pose in POSES if pose != "hold"])

    if relation == ALONE or second is None:
        placed = place(first, 0.5 + random.uniform(-0.07, 0.07), 0.8, 0.78, mirrored, free_pose(), 4)
        return Scene(surroundings, (placed,), ALONE, variation)
    if relation == NEXT_TO:
        pair = tuple(
            place(thing, x, 0.44, 0.62, random.random() < 0.5, free_pose(), 3)
            for thing, x in ((first, 0.26), (second, 0.74))
        )
        return Scene(surroundings, pair, relation, variation)
    if relation == HOLDING:
        x = random.uniform(0.3, 0.33)
        holder = place(first, 1 - x if mirrored else x, 0.52, 0.68, mirrored, "hold", 2)
        held = place(second, 0.5, 0.46, 0.36, mirrored, "down", 3)
        return Scene(surroundings, (holder, held), relation, variation)
    upper = place(first, 0.5, 0.5, 0.42, mirrored, free_pose(), 2)
    lower = place(second, 0.5 + random.uniform(-0.07, 0.07), 0.76, 0.38, random.random() < 0.5, "down", 0)
    return Scene(surroundings, (upper, lower), relation, variation)


def random_scene(random: Random, name_share: float = 0.0) -> Scene:
    """Draw a scene by lot: surroundings, relation, and things that are not held out.

    `name_share`, from 0 to 1, is how many of the things have a name.
    """
    surroundings = random.choice(tuple(SURROUNDINGS))
    (relation,) = random.choices(tuple(_RELATION_SHARES), tuple(_RELATION_SHARES.values()))
    firsts = seconds = tuple(KINDS)
    if relation == HOLDING:
        firsts = tuple(name for name, kind in KINDS.items() if kind.hand is not None)
        seconds = tuple(name for name, kind in KINDS.items() if kind.can_be_held)
    elif relation == ON:
        firsts = tuple(name for name, kind in KINDS.items() if kind.can_stand_on_top)
        seconds = tuple(name for name, kind in KINDS.items() if kind.top is not None)
    first = random_thing(random, random.choice(firsts), name_share=name_share)
    if relation == ALONE:
        return compose(random, surroundings, relation, first)
    second = random_thing(random, random.choice(seconds), name_share=name_share)
    return compose(random, surroundings, relation, first, second)
