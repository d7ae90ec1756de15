"""Put fluxbooth's packages beside what the base image brings, without changing what the base image brings.

The base image's torch is NVIDIA's own build for its CUDA and its machine; the registry's torch would run slower or not
at all. So torch, and what is compiled against it, are pinned at the versions found in the image, and after every
installation it is checked that they are still the ones that Python sees. Run by Dockerfile.train and
Dockerfile.inference, with the standard library alone:

    python3 base_image.py requirements pyproject.toml     what to install: the package's dependencies, and its builder
    python3 base_image.py pins [constraints.txt]          pip constraints: the image's torch, then the project's pins
    python3 base_image.py check PINS                      fails where an installation replaced what PINS held
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

# torch, what is compiled against it, and the numpy that these were built for.
KEPT = re.compile(r"torch|torchvision|torchaudio|triton|pytorch-triton|numpy|nvidia-.+|cuda-.+")

LAST_KEPT = "# above: the base image's own; below: the project's pins"


def normalised(name: str) -> str:
    """A package's name as registries compare them: "Typing_Extensions" -> "typing-extensions"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def kept() -> dict[str, str]:
    """Name -> version of what Python sees now of `KEPT`.

    The versions are those of the packages' metadata: `torch.__version__` of an NGC image reads nv25.09 where its
    metadata, which pip compares, reads nv25.9.
    """
    found: dict[str, str] = {}
    for dist in metadata.distributions():
        name = normalised(dist.metadata["Name"])
        if KEPT.fullmatch(name):
            found.setdefault(name, dist.version)  # the first on the path is the one that is imported
    return found


def requirements(pyproject: Path) -> list[str]:
    """The dependencies of the package and of its build, as pip's requirement lines."""
    table = tomllib.loads(pyproject.read_text())
    return [*table["build-system"]["requires"], *table["project"]["dependencies"]]


def pins(constraints: Path | None) -> list[str]:
    """pip constraints: what to keep of the image first, then the lines of `constraints` for all other packages.

    The NGC image has constraints of its own (PIP_CONSTRAINT) that pin every package in it. They cannot stay in force
    whole: fluxbooth needs a newer pillow, for instance. Nothing is lost, since pip replaces an installed package only
    where a requirement or a pin asks for another version.
    """
    held = kept()
    if "torch" not in held:
        sys.exit("the base image has no torch; BASE_IMAGE must name a PyTorch image")
    own = constraints.read_text().splitlines() if constraints else []
    lines = [f"{name}=={version}" for name, version in sorted(held.items())]
    return [*lines, LAST_KEPT, *(line for line in own if not _is_kept(line))]


def _is_kept(line: str) -> bool:
    name = re.match(r"[A-Za-z0-9._-]+", line)
    return name is not None and KEPT.fullmatch(normalised(name[0])) is not None


def check(pinned: Path) -> list[str]:
    """What is no longer as `pinned` holds it, a line for each; empty when all is well."""
    lines = pinned.read_text().splitlines()
    before = dict(line.split("==", 1) for line in lines[: lines.index(LAST_KEPT)])
    now = kept()
    return [
        f"{name}: the base image brought {version}, now {now.get(name, 'gone')}"
        for name, version in before.items()
        if now.get(name) != version
    ]


def main(arguments: list[str]) -> None:
    """Print what was asked for, or exit with what is wrong."""
    match arguments:
        case ["requirements", pyproject]:
            print("\n".join(requirements(Path(pyproject))))
        case ["pins", *files] if len(files) <= 1:
            print("\n".join(pins(Path(files[0]) if files else None)))
        case ["check", pinned]:
            if changed := check(Path(pinned)):
                sys.exit("\n".join(["an installation replaced what the base image brought:", *changed]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
