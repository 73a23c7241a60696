"""The rules of the house for every file: small functions, small files, no private names of other modules."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "train.py"])


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its first statement after the docstring to its end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    last = function.end_lineno
    assert last is not None
    return last - body[0].lineno + 1 if body else 0


def functions() -> list[tuple[str, int]]:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", body_lines(node))]
    return found


def test_the_median_function_is_under_ten_lines() -> None:
    assert statistics.median(lines for _, lines in functions()) < 10


def test_no_function_is_over_sixty_lines() -> None:
    assert [name for name, lines in functions() if lines > 60] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_is_under_four_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


def test_the_loop_over_rounds_is_short() -> None:
    assert len((ROOT / "src/pffdst/run.py").read_text().splitlines()) < 80


def exported(path: Path) -> set[str] | None:
    """The names in a module's `__all__`; None if it has none."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_what_a_module_takes_from_another_is_public_there() -> None:
    source = ROOT / "src"
    public = {".".join(path.relative_to(source).with_suffix("").parts): exported(path) for path in source.rglob("*.py")}
    private = [
        f"{path.relative_to(ROOT)}: {node.module}.{name.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (names := public.get(node.module or "")) is not None
        for name in node.names
        if name.name not in names
    ]
    assert private == []
