"""What comes from outside (names of files, classes and runs) is printed as it is, never read as rich's markup."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import acnet_pl

ROOT = Path(acnet_pl.__file__).parent


@pytest.mark.parametrize("path", sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py")), ids=str)
def test_nothing_printed_is_read_as_markup(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"{path}:{node.lineno}"
        if node.func.id == "Console":
            assert keywords.get("markup") == keywords.get("emoji") == "False", where
        elif node.func.id == "TextColumn" and "task.description" in ast.unparse(node):
            assert keywords.get("markup") == "False", where
        elif node.func.id == "track":
            description = node.args[1] if len(node.args) > 1 else None
            assert isinstance(description, (ast.Constant, ast.Call)), f"{where}: its description must be escaped"
