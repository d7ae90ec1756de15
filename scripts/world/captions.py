"""What a scene is called in words, for instance "a red toy with blue horns holding a black gpu in a datacenter"."""

from string import Formatter

from world.kinds import kind_of
from world.scene import ALONE, NOWHERE, Scene, Thing
from world.surroundings import SURROUNDINGS


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def _details(thing: Thing) -> list[str]:
    """Say a thing's attributes in words, one phrase each, leaving out those that it does not have."""
    attributes = dict(thing.attributes)
    phrases = []
    for detail in kind_of(thing).details:
        named = [name for _, name, _, _ in Formatter().parse(detail) if name]
        if any(attributes[name] == "no" for name in named):
            continue
        phrase = detail.format(**attributes)
        if phrase.startswith("one "):
            phrase = phrase.removesuffix("s")
        elif not phrase.endswith("s"):
            phrase = _with_article(phrase)
        phrases.append(phrase)
    return phrases


def name_thing(thing: Thing, detailed: bool = True) -> str:
    """Say a thing in words: by its name and kind where it has a name, else by its kind and attributes.

    Without `detailed` only the kind is said: "a toy".
    """
    if thing.name:
        return f"{thing.name} {thing.kind}"
    if not detailed:
        return _with_article(thing.kind)
    words = _with_article(f"{thing['colour']} {thing.kind}")
    details = _details(thing)
    if not details:
        return words
    *first, last = details
    return f"{words} with {', '.join(first)} and {last}" if first else f"{words} with {last}"


def caption(scene: Scene, detailed: bool = True) -> str:
    """Say a scene in words: its things, their relation and the surroundings; nothing for nowhere."""
    words = [name_thing(placed.thing, detailed) for placed in scene.things]
    relation = "" if scene.relation == ALONE else f" {scene.relation}"
    said = f"{relation} ".join(words) if words else "nothing"
    return said if scene.surroundings == NOWHERE else f"{said} {SURROUNDINGS[scene.surroundings].words}"
