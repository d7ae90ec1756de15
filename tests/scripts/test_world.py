import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops
from world.captions import caption, name_thing
from world.draw import draw
from world.drawings.figures import POSES
from world.kinds import KINDS
from world.palette import COLOURS
from world.random_scenes import compose, is_held_out, named_things, random_scene, random_thing
from world.scene import ALONE, HOLDING, NEXT_TO, NOWHERE, ON, Placed, Scene, make_thing
from world.subjects import SPARKGPU, TJTOY
from world.surroundings import SURROUNDINGS

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZES = ((64, 64), (128, 96))


def changed_share(picture: Image.Image, other: Image.Image) -> float:
    """Return the share of pixels, from 0 to 1, that are clearly different in two pictures of one size."""
    grey = ImageChops.difference(picture.convert("RGB"), other.convert("RGB")).convert("L")
    return sum(grey.histogram()[24:]) / (grey.width * grey.height)


def test_same_scene_gives_same_bytes() -> None:
    scenes = [random_scene(Random(5)) for _ in range(2)]
    assert scenes[0] == scenes[1]
    first, second = (draw(scene, 96, 96).tobytes() for scene in scenes)
    assert first == second


def test_other_seeds_give_other_pictures() -> None:
    pictures = {draw(random_scene(Random(seed)), 64, 64).tobytes() for seed in range(40)}
    assert len(pictures) == 40


def test_surroundings_vary_with_the_scene() -> None:
    for surroundings in SURROUNDINGS:
        pictures = {draw(Scene(surroundings, variation=variation), 64, 64).tobytes() for variation in range(5)}
        assert len(pictures) > 1, surroundings


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_visible_in_all_surroundings(kind: str, size: tuple[int, int]) -> None:
    for seed, surroundings in enumerate(SURROUNDINGS):
        random = Random(seed)
        scene = compose(random, surroundings, ALONE, random_thing(random, kind))
        picture = draw(scene, *size)
        assert picture.size == size
        assert picture.mode == "RGB"
        empty = draw(Scene(surroundings, variation=scene.variation), *size)
        assert changed_share(picture, empty) > 0.08, f"a {kind} hardly shows: {caption(scene)}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_attribute_shows(kind: str) -> None:
    base = dict(random_thing(Random(1), kind).attributes)
    if "mark" in base:
        base["mark"] = "star"
    for attribute, values in KINDS[kind].attributes.items():
        # A part in the colour of the whole does not show; random things have none.
        visible = {value for value in values if attribute == "colour" or value != base["colour"]}
        things = [make_thing(kind, **{**base, attribute: value}) for value in visible]
        looks = {draw(Scene(NOWHERE, (Placed(thing, size=0.5),)), 96, 96).tobytes() for thing in things}
        assert len(looks) == len(visible), attribute


@pytest.mark.parametrize("pose", POSES)
def test_toys_show_their_pose(pose: str) -> None:
    picture = draw(Scene(NOWHERE, (Placed(TJTOY, pose=pose),)), 96, 96)
    others = [draw(Scene(NOWHERE, (Placed(TJTOY, pose=other),)), 96, 96) for other in POSES if other != pose]
    assert all(picture.tobytes() != other.tobytes() for other in others)


@pytest.mark.parametrize("relation", [NEXT_TO, HOLDING, ON])
def test_both_things_of_a_relation_are_visible(relation: str) -> None:
    for seed in range(6):
        scene = compose(Random(seed), "grass", relation, TJTOY, SPARKGPU)
        picture = draw(scene, 128, 128)
        for placed in scene.things:
            without = Scene(scene.surroundings, (placed,), ALONE, scene.variation)
            assert changed_share(picture, draw(without, 128, 128)) > 0.04, relation


def test_random_things_stay_inside_the_picture() -> None:
    for seed in range(150):
        scene = random_scene(Random(seed))
        cut_out = draw(Scene(NOWHERE, scene.things, scene.relation), 64, 64)
        left, top, right, bottom = cut_out.getchannel("A").point([0] * 128 + [255] * 128).getbbox() or (0, 0, 64, 64)
        assert left > 0, caption(scene)
        assert top > 0, caption(scene)
        assert right < 64, caption(scene)
        assert bottom < 64, caption(scene)


def test_nowhere_is_transparent() -> None:
    picture = draw(Scene(NOWHERE, (Placed(SPARKGPU, size=0.4),)), 64, 64)
    assert picture.mode == "RGBA"
    assert picture.getchannel("A").getextrema() == (0, 255)


def test_captions_name_kinds_relation_and_surroundings() -> None:
    for seed in range(300):
        scene = random_scene(Random(seed))
        words = caption(scene)
        assert words.endswith(SURROUNDINGS[scene.surroundings].words)
        assert all(placed.thing.kind in words for placed in scene.things)
        assert scene.relation == ALONE or f" {scene.relation} " in words
        assert " no " not in words


def test_captions_read_as_english() -> None:
    toy = make_thing(
        "toy", colour="orange", ear_colour="blue", ears="horns", mark="no", mark_colour="red", scarf_colour="orange"
    )
    gpu = make_thing("gpu", colour="black", fan_colour="green", fans="one", mark="star", mark_colour="red")
    scene = Scene("datacenter", (Placed(toy), Placed(gpu)), HOLDING)
    assert caption(scene) == (
        "an orange toy with blue horns and an orange scarf holding a black gpu with one green fan and a red star "
        "in a datacenter"
    )
    assert caption(scene, detailed=False) == "a toy holding a gpu in a datacenter"


def test_named_things_go_by_their_name() -> None:
    scene = Scene("datacenter", (Placed(TJTOY), Placed(SPARKGPU)), HOLDING)
    assert caption(scene) == "tjtoy toy holding sparkgpu gpu in a datacenter"
    named = random_thing(Random(3), "mug", name_share=1.0)
    assert name_thing(named) == f"{named.name} mug"


def test_a_name_is_one_things_alone_and_that_thing_always_looks_alike() -> None:
    """Among random scenes, so that a made-up word means something to a network that was trained on them."""
    for kind in KINDS:
        names = [thing.name for thing in named_things(kind)]
        assert len(set(names)) == len(names)
        assert not any(is_held_out(thing) for thing in named_things(kind))
    looks: dict[tuple[str, str], set[tuple[tuple[str, str], ...]]] = {}
    for seed in range(400):
        for placed in random_scene(Random(seed), name_share=0.5).things:
            if placed.thing.name:
                looks.setdefault((placed.thing.kind, placed.thing.name), set()).add(placed.thing.attributes)
    assert len(looks) > 100
    assert all(len(attributes) == 1 for attributes in looks.values())


def test_random_scenes_never_show_what_is_held_out() -> None:
    random = Random(0)
    scenes = [random_scene(random) for _ in range(2000)]
    assert not [caption(scene) for scene in scenes for placed in scene.things if is_held_out(placed.thing)]
    assert {placed.thing.kind for scene in scenes for placed in scene.things} == set(KINDS)
    assert {scene.surroundings for scene in scenes} == set(SURROUNDINGS)
    assert {scene.relation for scene in scenes} == {ALONE, NEXT_TO, HOLDING, ON}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_something_out_and_still_shows_every_colour(kind: str) -> None:
    first, second = list(KINDS[kind].attributes)[:2]
    assert {*KINDS[kind].attributes[first], *KINDS[kind].attributes[second]} <= set(COLOURS)
    random = Random(0)
    assert is_held_out(random_thing(random, kind, held_out=True))
    shown = [random_thing(random, kind) for _ in range(600)]
    for attribute in (first, second):
        assert {thing[attribute] for thing in shown} == set(KINDS[kind].attributes[attribute])


def test_the_subjects_are_held_out() -> None:
    assert is_held_out(TJTOY)
    assert is_held_out(SPARKGPU)


def test_wrong_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="no hand"):
        draw(Scene("grass", (Placed(SPARKGPU), Placed(TJTOY)), HOLDING), 64, 64)
    with pytest.raises(ValueError, match="no flat top"):
        draw(Scene("grass", (Placed(SPARKGPU), Placed(TJTOY)), ON), 64, 64)
    with pytest.raises(ValueError, match="two things"):
        draw(Scene("grass", (Placed(TJTOY),), HOLDING), 64, 64)
    with pytest.raises(ValueError, match="too small"):
        draw(Scene("grass"), 8, 64)
    with pytest.raises(KeyError, match="datacenter"):
        draw(Scene("moon"), 64, 64)
    with pytest.raises(KeyError, match="robot"):
        draw(Scene("grass", (Placed(make_thing("cat", colour="red")),)), 64, 64)


def test_the_miniatures_tokenizer_has_a_token_for_every_word_of_the_captions() -> None:
    """A word that is spelled in characters costs the text encoders five tokens where one would do."""
    known = set(json.loads((SCRIPTS / "miniature/words.json").read_text("utf-8")))
    said = " ".join(caption(random_scene(Random(seed))) for seed in range(1000)).replace(",", "")
    assert set(said.split()) - known == set()
