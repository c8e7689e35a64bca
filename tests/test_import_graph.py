"""The floors of the package: imports go down only, those inside functions included, and never in a circle."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"stellar_hub": "stellar_hub", "modeling": "stellar_hub.modeling", "conversion": "stellar_hub.conversion"}
# A room may import the rooms before it. Training and evaluation do not import each other, nor retrieval.
FLOORS = (
    ("version", "old_names", "extras", "matching", "progress", "listening", "stop_signals"),
    ("registry",),
    ("measures",),
    ("modeling",),
    ("conversion",),
    ("hub",),
    ("data",),
    ("features",),
    ("store",),
    ("retrieval", "visualization", "export", "editing"),
    ("training", "evaluation", "app", "serving"),
    ("cli",),
    ("__main__", "extraction"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def names_in(node: ast.stmt, module: str, is_package: bool) -> list[str]:
    """The dotted names that an import statement may mean."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
        base = ".".join([*parents, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def imports_of(module: str, path: Path) -> set[str]:
    """The modules of the package that a module imports anywhere; under TYPE_CHECKING does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in checking]
    names = {name for node in statements for name in names_in(node, module, path.name == "__init__.py")}
    return {name for name in names if name in modules()} - {module}


@cache
def graph() -> dict[str, frozenset[str]]:
    """What each module imports."""
    return {module: frozenset(imports_of(module, path)) for module, path in modules().items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_rooms__all_have_a_floor() -> None:
    assert {room_of(module) for module in modules()} - {""} == set(FLOOR_OF)


def test_imports__go_down() -> None:
    upward = [
        f"{module} imports {imported}"
        for module, found in graph().items()
        for imported in sorted(found)
        if (here := room_of(module)) and (there := room_of(imported)) and here != there
        if FLOOR_OF[there] >= FLOOR_OF[here]
    ]
    assert not upward


def test_modules__import_each_other_in_no_circle() -> None:
    remaining = dict(graph())
    while leaves := [module for module, found in remaining.items() if not found & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    assert not remaining


@pytest.mark.parametrize("room", ["evaluation", "retrieval"])
def test_training_and_the_others__meet_below(room: str) -> None:
    of_training = {imported for module in graph() if room_of(module) == "training" for imported in graph()[module]}
    of_other = {imported for module in graph() if room_of(module) == room for imported in graph()[module]}
    assert room not in {room_of(module) for module in of_training}
    assert "training" not in {room_of(module) for module in of_other}


def test_files_of_modeling__import_each_other_relatively_and_the_library_never() -> None:
    files = [path for path in (ROOT / "modeling").glob("*.py") if path.name != "__init__.py"]
    allowed = {"registry"}  # published names: a `try:` import, as pushed code stands alone
    found = {
        room_of(name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in names_in(node, "stellar_hub.modeling.x", is_package=False)
        if name.startswith("stellar_hub.")
    }
    assert found <= allowed
