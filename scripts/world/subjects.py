"""The two subjects of the sample concepts: one toy and one graphics card, both of held-out combinations of colours."""

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
