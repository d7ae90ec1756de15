"""Draw the subjects that the demo holds the two sample concepts against: twelve toys and twelve graphics cards.

`python scripts/draw_other_subjects.py` writes one strip a subject to `src/fluxbooth/miniature/other_subjects`: the
concept's own pictures with this subject in its stead, so that nothing but the subject differs.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from draw_concepts import PICTURES, ConceptPicture
from PIL import Image
from world.draw import draw
from world.scene import Thing
from world.subjects import SPARKGPU, TJTOY, others_like

SIDE = 96
FOLDER = Path(__file__).parent.parent / "src/fluxbooth/miniature/other_subjects"


def squeezed(picture: Image.Image) -> Image.Image:
    """Scale the whole picture to a square of SIDE pixels, as the scorer looks at pictures; transparent is white."""
    opaque = picture.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return flat.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw_strip(subject: Thing, pictures: list[ConceptPicture]) -> Image.Image:
    """Draw a concept's pictures side by side with `subject` in them."""
    strip = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for place, picture in enumerate(pictures):
        (placed,) = picture.scene.things
        scene = replace(picture.scene, things=(replace(placed, thing=subject),))
        strip.paste(squeezed(draw(scene, picture.width, picture.height)), (SIDE * place, 0))
    return strip


def main() -> None:
    """Draw all strips anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for concept in (TJTOY, SPARKGPU):
        folder = FOLDER / concept.kind
        folder.mkdir(parents=True)
        pictures = [picture for picture in PICTURES if picture.path.startswith(f"{concept.name}/")]
        for number, subject in enumerate(others_like(concept), start=1):
            draw_strip(subject, pictures).save(folder / f"{number:02d}.png", optimize=True)
    print(f"Drew {len(list(FOLDER.rglob('*.png')))} strips in {FOLDER}")


if __name__ == "__main__":
    main()
