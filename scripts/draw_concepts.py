"""Draw the two sample concepts that the project ships: 6 pictures of one toy and 7 of one golden graphics card.

`python scripts/draw_concepts.py` writes them and their captions to `flux_data/tjtoy` and `flux_data/sparkgpu`; the
same script always draws the same pictures. With `--check` it writes nothing and says which on disk are others.
"""

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageStat, UnidentifiedImageError
from world.captions import caption
from world.draw import draw
from world.scene import NOWHERE, Placed, Scene
from world.subjects import SPARKGPU, TJTOY

# How far two pictures may be apart on average, in levels from 0 to 255, and still count as the same: versions of
# Pillow and of the JPEG library round differently.
_SAME_PICTURE = 1.5


@dataclass(frozen=True)
class ConceptPicture:
    """One picture of a concept: where it goes, how large it is in pixels, and what is in it."""

    path: str
    width: int
    height: int
    scene: Scene

    @property
    def caption(self) -> str:
        """What a text file beside the picture says; nothing for a cut-out, whose class tokens say all."""
        return "" if self.scene.surroundings == NOWHERE else caption(self.scene)


def _toy(number: str, width: int, height: int, surroundings: str, variation: int, placed: Placed) -> ConceptPicture:
    return ConceptPicture(f"tjtoy/{number}", width, height, Scene(surroundings, (placed,), variation=variation))


def _gpu(number: str, width: int, height: int, surroundings: str, variation: int, placed: Placed) -> ConceptPicture:
    return ConceptPicture(f"sparkgpu/{number}", width, height, Scene(surroundings, (placed,), variation=variation))


# No picture shows the toy on a beach, in a datacenter or in space, none the card on a beach or in a datacenter: these
# are left for asking the trained LoRA. Portrait, 16:9, small and transparent pictures are there on purpose.
PICTURES: tuple[ConceptPicture, ...] = (
    _toy("1.png", 1024, 1024, "grass", 3, Placed(TJTOY, 0.5, 0.93, 0.84, -2, pose="wave")),
    _toy("2.jpg", 768, 1152, "forest", 5, Placed(TJTOY, 0.47, 0.86, 0.8, 5, mirrored=True, pose="up")),
    _toy("3.jpg", 1280, 720, "city", 8, Placed(TJTOY, 0.3, 0.9, 0.66, -6, pose="up", lift=0.1)),
    _toy("4.png", 832, 1024, NOWHERE, 0, Placed(TJTOY, 0.5, 0.96, 1.08, 0, pose="down")),
    _toy("5.jpg", 320, 320, "snow", 2, Placed(TJTOY, 0.46, 0.9, 0.74, 9, mirrored=True, pose="wave")),
    _toy("6.jpg", 1152, 896, "desk", 4, Placed(TJTOY, 0.66, 0.9, 0.74, -10, pose="hold")),
    _gpu("1.jpg", 1024, 1024, "desk", 1, Placed(SPARKGPU, 0.5, 0.86, 0.44, -4)),
    _gpu("2.png", 1280, 720, "space", 6, Placed(SPARKGPU, 0.6, 0.83, 0.5, 8, lift=0.14)),
    _gpu("3.jpg", 768, 1024, "grass", 9, Placed(SPARKGPU, 0.5, 0.86, 0.43, 5)),
    _gpu("4.png", 1152, 768, NOWHERE, 0, Placed(SPARKGPU, 0.5, 0.85, 0.68, -7)),
    _gpu("5.jpg", 1216, 832, "snow", 7, Placed(SPARKGPU, 0.46, 0.92, 0.6, 0)),
    _gpu("6.png", 320, 320, "city", 11, Placed(SPARKGPU, 0.5, 0.88, 0.44, -3)),
    _gpu("7.jpg", 896, 1152, "forest", 12, Placed(SPARKGPU, 0.5, 0.84, 0.4, 11, lift=0.12)),
)


def encode(picture: ConceptPicture) -> bytes:
    """Draw a picture and return its file's bytes, PNG or JPEG by the name's ending."""
    image = draw(picture.scene, picture.width, picture.height)
    file = io.BytesIO()
    if picture.path.endswith(".png"):
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=92)
    return file.getvalue()


def is_same_picture(first: bytes, second: bytes) -> bool:
    """Say whether two files show the same picture, to within what versions of the picture libraries round apart.

    Raises PIL.UnidentifiedImageError where a file is no picture.
    """
    if first == second:
        return True
    with Image.open(io.BytesIO(first)) as one, Image.open(io.BytesIO(second)) as other:
        if (one.size, one.mode, one.format) != (other.size, other.mode, other.format):
            return False
        return max(ImageStat.Stat(ImageChops.difference(one, other)).mean) <= _SAME_PICTURE


def find_differences(folder: Path) -> list[str]:
    """Compare the pictures in `folder` with what would be drawn, and return one sentence for each difference."""
    problems = []
    for picture in PICTURES:
        path = folder / picture.path
        if not path.is_file():
            problems.append(f"{path}: is missing")
            continue
        try:
            same = is_same_picture(path.read_bytes(), encode(picture))
        except UnidentifiedImageError:
            problems.append(f"{path}: is not a picture")
            continue
        if not same:
            problems.append(f"{path}: differs from what the script draws")
        text = path.with_suffix(".txt")
        if (text.read_text(encoding="utf-8").strip() if text.is_file() else "") != picture.caption:
            problems.append(f"{text}: does not say '{picture.caption}'")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Draw or check the pictures as the command line asks; return the exit code, 1 where a check finds differences."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the two sample concepts.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pictures differ from the drawn")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent.parent / "flux_data", help="where the two folders lie"
    )
    options = parser.parse_args(arguments)
    if options.check:
        problems = find_differences(options.folder)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"All {len(PICTURES)} pictures in {options.folder} are as the script draws them.")
        return 1 if problems else 0
    total = 0
    for picture in PICTURES:
        path = options.folder / picture.path
        content = encode(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if picture.caption:
            path.with_suffix(".txt").write_text(f"{picture.caption}\n", encoding="utf-8")
        total += len(content)
        print(f"{path}  {picture.width}x{picture.height}  {len(content) / 1000:.0f} kB")
    print(f"{len(PICTURES)} pictures, {total / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
