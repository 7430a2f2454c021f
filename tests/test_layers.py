"""The layering of ARCHITECTURE.md holds: import-linter's contracts, and what imports alone cannot tell."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rafttoy"
LAYERS, SHARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
BELOW_THE_WORLDS = [
    name.strip(" ()") for layer in LAYERS["layers"][LAYERS["layers"].index("sim | real") + 1 :] for name in layer.split(":")
]
FILES = sorted(path for name in BELOW_THE_WORLDS for path in (PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py")) if path.is_file())
"""Of the layers below `sim | real`: they run in both worlds."""

WORLD_BRANCH = re.compile(
    r"""isinstance\(.*\b(Sim|Real)[A-Z]   # which world's object is this?
      | \bworld\s*[!=]=                   # which world is this?
      | \b(if|elif|not|and|or)\s+(is_)?(sim|real)\b
    """,
    re.VERBOSE,
)


def test_both_contracts_speak_of_the_same_modules() -> None:
    assert sorted(SHARED["source_modules"]) == sorted(f"rafttoy.{name}" for name in BELOW_THE_WORLDS)
    assert len(FILES) > 20


def test_contracts() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: 2 kept, 0 broken", done.stdout), done.stdout


def test_contracts_see_a_breach(tmp_path: Path) -> None:
    """The same contracts, over a copy of the package with one wrong import, fail: they do check what they say."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (tmp_path / "rafttoy/sync.py").write_text("from __future__ import annotations\n\nimport time\n\nimport rafttoy.sim.model\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo", "--no-cache"]
    done = subprocess.run([*command, "--config", str(ROOT / "pyproject.toml")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"Contracts: 0 kept, 2 broken", done.stdout), done.stdout


def test_only_worlds_imports_both() -> None:
    """A model *file* is anyone's to read (rafttoy.sim.model); the worlds themselves meet in one place."""
    graph = grimp.build_graph("rafttoy", cache_dir=None)
    both = set()
    for module in graph.modules:
        seen = {
            name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if name != "rafttoy.sim.model" and "." in name
        }
        if {"sim", "real"} <= seen:
            both.add(module)
    assert both <= {"rafttoy.worlds"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shared_code_does_not_ask_which_world_it_is_in(path: Path) -> None:
    found = [line.strip() for line in path.read_text().splitlines() if WORLD_BRANCH.search(line.partition("#")[0])]
    assert not found


@pytest.mark.parametrize("line", ["if isinstance(files, SimFiles):", 'if world == "sim":', "elif real:", "if not is_sim and x:"])
def test_a_branch_on_the_world_would_be_seen(line: str) -> None:
    assert WORLD_BRANCH.search(line)


FORBIDDEN_CALLS = {"open", "input", "print", "exec", "eval", "id", "hash"}
"""File I/O, terminals, and what differs from process to process (an identity, a salted hash)."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shared_code_does_no_io_and_depends_on_no_addresses(path: Path) -> None:
    assert _forbidden(path.read_text()) == []


def _forbidden(source: str) -> list[str]:
    """Calls of builtins that shared code must not make, and iteration over a set, whose order is that of salted hashes."""
    found = []
    tree = ast.parse(source)
    hashes = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__hash__" for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in hashes:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(f"{node.func.id}() in line {node.lineno}")
        iterated = [node.iter] if isinstance(node, ast.For | ast.comprehension) else []
        for each in iterated:
            made_set = isinstance(each, ast.Set | ast.SetComp)
            called_set = isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id in ("set", "frozenset")
            if made_set or called_set:
                found.append(f"iteration over a set in line {each.lineno}")
    return found


@pytest.mark.parametrize("source", ["open('x')", "id(x)", "for a in {1, 2}: pass", "[a for a in set(b)]"])
def test_a_forbidden_call_would_be_seen(source: str) -> None:
    assert _forbidden(source)
