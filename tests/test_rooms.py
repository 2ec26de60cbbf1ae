"""Each file has one idea and fits on a few screens; each folder says what is in it; no module only forwards."""

import ast
from pathlib import Path

import pytest

import acnet_pl

ROOT = Path(acnet_pl.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
LONGEST = 300


def only_forwards(tree: ast.Module) -> bool:
    """True for nothing but imports, a docstring and ``__all__``."""
    return all(
        isinstance(node, (ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in tree.body
    )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_short_says_what_it_is_and_does_something(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) <= LONGEST
    assert ast.get_docstring(tree)
    assert path.name == "__init__.py" or not only_forwards(tree)


def test_a_module_that_only_forwards_is_found() -> None:
    assert only_forwards(ast.parse('"""Old home."""\nfrom acnet_pl.nn import ACBlock\n__all__ = ["ACBlock"]'))
    assert not only_forwards(ast.parse("from math import pi\nTURN = 2 * pi"))


def test_every_folder_of_modules_is_a_package() -> None:
    assert [path for path in FILES if not (ROOT / path).with_name("__init__.py").is_file()] == []
