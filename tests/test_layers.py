"""The house's rule, drawn from the code: a room imports from rooms before it, from host/ and errors, never back."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fluxbooth

PACKAGE = Path(fluxbooth.__file__).parent
# In the order of the data. `errors` and `host` are the ground that every room stands on.
ROOMS = [
    "errors",
    "host",
    "config",
    "dataset",
    "flux",
    "showing",
    "captioning",
    "training",
    "judging",
    "benchmark",
    "comfyui",
    "reporting",
    "regularize",
    "demo",
    "cli",
    "__main__",
]
# What a room may import of the project beyond itself and the ground; everything else is refused.
MAY_IMPORT = {
    "errors": set[str](),
    "host": set[str](),
    "config": set[str](),
    "dataset": {"config"},
    "flux": set[str](),
    # Files and sheets of pictures, which both a training and what judges it write.
    "showing": set[str](),
    "captioning": {"config", "dataset", "flux"},
    "training": {"config", "dataset", "flux", "showing"},
    "judging": {"config", "dataset", "flux", "showing", "training"},
    "benchmark": {"config", "dataset", "flux", "training"},
    "comfyui": set[str](),
    "reporting": {"showing", "training", "judging", "comfyui"},
    "regularize": {"config", "dataset", "flux", "showing"},
    "demo": {"config", "dataset", "flux", "showing", "training", "judging", "reporting"},
    "cli": set(ROOMS) - {"errors", "host", "cli", "__main__"},
    "__main__": {"cli"},
}
GROUND = {"errors", "host", "__init__"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node))
    return found


def rooms_imported(module: Path) -> set[str]:
    names = [name for name, _ in imports_of(ast.parse(module.read_text(encoding="utf-8")))]
    own = [name.split(".") for name in names if name.split(".")[0] == "fluxbooth"]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in own}


def test_every_module_stands_in_a_known_room() -> None:
    assert len(MODULES) > 30
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(module: Path) -> None:
    room = room_of(module)
    allowed = MAY_IMPORT[room] | {room} | ({"errors", "__init__"} if room in ("errors", "host") else GROUND)
    assert rooms_imported(module) <= allowed


def test_the_rule_itself_only_points_to_earlier_rooms() -> None:
    for room, others in MAY_IMPORT.items():
        assert all(ROOMS.index(other) < ROOMS.index(room) for other in others), room


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    arrows = {
        name_of(module): {name for name, _ in imports_of(ast.parse(module.read_text(encoding="utf-8")))}
        for module in MODULES
    }
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in finished:
            return
        for other in arrows[name] & arrows.keys():
            visit(other, (*path, name))
        finished.add(name)

    for name in arrows:
        visit(name, ())


def name_of(module: Path) -> str:
    return ".".join(("fluxbooth", *module.relative_to(PACKAGE).with_suffix("").parts))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_import_inside_a_function_stands_only_at_the_top_of_a_command(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [node for function in functions for _, node in imports_of(function)]
    if module.name != "cli.py":
        assert inside == []
        return
    for function in functions:
        body = function.body[1:] if ast.get_docstring(function) else function.body
        leading = [node for node, rest in zip(body, range(len(body)), strict=True) if is_leading_import(body, rest)]
        assert len(leading) == len({id(node) for _, node in imports_of(function)}), function.name


def is_leading_import(body: list[ast.stmt], index: int) -> bool:
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in body[: index + 1])


@pytest.mark.parametrize("room", ["errors", "host", "config", "dataset", "comfyui", "reporting", "cli"])
def test_rooms_without_the_network_do_not_load_torch(room: str) -> None:
    modules = [name_of(module) for module in MODULES if room_of(module) == room]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
