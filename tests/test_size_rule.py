"""The size rule of the house: small functions, small files."""

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
