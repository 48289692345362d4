"""Data flows one way: no room imports one above it, no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fdd"
#: Low to high; a room knows only those before it.
ROOMS = (
    *("points", "data", "modeling", "evaluation", "export_formats", "visualization", "engine"),
    *("recipe", "inference", "annotate", "audit", "ablations", "profiling", "doctor", "cli"),
)
#: Rooms that work without PyTorch: labels are read, checked and converted where it is not.
LIGHT = ("points", "export_formats")


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Modules, and names that may be modules, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Which modules of the package each one imports."""
    known = modules(package)
    out: dict[str, set[str]] = {}
    for name, path in known.items():
        places = ((full if full in known else full.rpartition(".")[0]) for full in imports(path))
        out[name] = {place for place in places if place in known} - {name}
    return out


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def upward(edges: dict[str, set[str]]) -> list[str]:
    height = {room: number for number, room in enumerate(ROOMS)}
    pairs = [(a, b) for a, bs in edges.items() for b in bs]
    both = [(a, b) for a, b in pairs if room_of(a) in height and room_of(b) in height]
    return [f"{a} -> {b}" for a, b in both if height[room_of(b)] > height[room_of(a)]]


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"configs"} == {room for room in ROOMS if (PACKAGE / room).is_dir()}


def test_no_room_imports_one_above_it() -> None:
    assert not upward(graph())


def test_no_modules_import_each_other_in_a_circle() -> None:
    # The package itself gives config to its users lazily, and config knows the names of the makers.
    edges = {name: below - {"fdd"} for name, below in graph().items() if name != "fdd"}
    TopologicalSorter(edges).prepare()  # a CycleError names the circle


def test_labels_are_handled_without_pytorch() -> None:
    heavy = {"torch", "torchvision", "detectron2"}
    found = [
        f"{name}: {place}"
        for name, path in modules().items()
        if room_of(name) in LIGHT
        for place in imports(path)
        if place.split(".")[0] in heavy
    ]
    assert not found


def test_the_rules_see_what_they_forbid(tmp_path: Path) -> None:
    package = tmp_path / "fdd"
    for room, text in {
        "points": "def late():\n    from fdd.engine import train\n",
        "engine": "import fdd.points\n",
    }.items():
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text(text)
    edges = graph(package)
    assert upward(edges) == ["fdd.points -> fdd.engine"]
    with pytest.raises(CycleError):
        TopologicalSorter(edges).prepare()
