"""The two subjects of the sample concepts, of held-out combinations of colours, and others to hold them against."""

from random import Random

from world.captions import name_thing
from world.random_scenes import changed_thing, random_thing
from world.scene import Thing, make_thing

TJTOY: Thing = make_thing(
    "toy",
    name="tjtoy",
    colour="orange",
    ear_colour="blue",
    ears="long ears",
    mark="star",
    mark_colour="green",
    scarf_colour="purple",
)

SPARKGPU: Thing = make_thing(
    "gpu",
    name="sparkgpu",
    colour="golden",
    fan_colour="turquoise",
    fans="two",
    mark="lightning bolt",
    mark_colour="white",
)


def others_like(subject: Thing) -> list[Thing]:
    """Return twelve other subjects of a subject's kind, no two alike: six differ from it in three attributes only, six
    in anything. Whoever says that a picture shows the subject must tell it from all of them.
    """
    random = Random(f"others like {subject.name}")
    others: dict[str, Thing] = {}
    words = name_thing(Thing(subject.kind, subject.attributes))
    while len(others) < 6:
        other = subject
        for _ in range(3):
            other = changed_thing(random, other)
        differing = sum(mine != theirs for mine, theirs in zip(subject.attributes, other.attributes, strict=True))
        if differing == 3:
            others[name_thing(other)] = other
    while len(others) < 12:
        other = random_thing(random, subject.kind)
        if name_thing(other) != words:
            others[name_thing(other)] = other
    return list(others.values())
