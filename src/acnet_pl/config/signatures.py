"""Read the signature of a class or function from its source text, without importing its module.

Importing torch and Lightning takes seconds, and help or a misspelt option needs neither.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

__all__ = [
    "Definition",
    "Parameter",
    "Signature",
    "class_names",
    "definition",
    "exported",
    "module_summary",
    "signature",
]

Node: TypeAlias = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Parameter:
    """Parameter of a class or function.

    Attributes:
        name: Its name.
        annotation: Its annotation; None if it has none.
        default: Source text of the default; None if the parameter is required.
        help: Its description in the docstring.
    """

    name: str
    annotation: ast.expr | None
    default: str | None
    help: str


@dataclass(frozen=True)
class Signature:
    """Signature and documentation of a class or function.

    Attributes:
        path: Dotted path that `signature` was called with.
        module: Path of the module that defines it.
        summary: First paragraph of its docstring.
        parameters: Parameters by name.
        is_open: Whether it takes further arguments (``**kwargs``), which are unknown here.
    """

    path: str
    module: str
    summary: str
    parameters: dict[str, Parameter]
    is_open: bool

    @property
    def name(self) -> str:
        """Return the name without the module."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Definition:
    """Statement that defines a name, and its module."""

    module: str
    node: ast.stmt


def signature(path: str) -> Signature | None:
    """Return the signature of a class, function or method; None if its source cannot be found.

    Args:
        path: Dotted path, such as ``acnet_pl.backbones.VGG16`` or ``pytorch_lightning.Trainer.fit``.
    """
    found = definition(path)
    if found is None or not isinstance(found.node, (ast.ClassDef, ast.FunctionDef)):
        return None
    node, module = found.node, found.module
    summary, described = _documentation(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        initializer = _member(found, "__init__")
        if initializer is None:
            return Signature(path, module, summary, dict(_fields(node, described)), is_open=False)
        if not described:  # then the docstring of the initializer or of a base class has them
            described = _documentation(ast.get_docstring(initializer.node) or "")[1]  # type: ignore[arg-type]
            described = described or _described(found)
        module, function = initializer.module, initializer.node
    else:
        function = node
    assert isinstance(function, ast.FunctionDef)
    return Signature(path, module, summary, dict(_parameters(function, described)), function.args.kwarg is not None)


def class_names(module: str) -> dict[str, list[str]]:
    """Return the classes that a module defines, each with the names of its bases."""
    tree = _tree(module)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)] if tree else []
    return {node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases] for node in classes}


def exported(module: str) -> list[str]:
    """Return the names in a module's ``__all__``."""
    tree = _tree(module)
    for node in tree.body if tree else ():
        names = _assigned(node)
        if "__all__" in names and isinstance(value := getattr(node, "value", None), (ast.List, ast.Tuple)):
            return [str(item.value) for item in value.elts if isinstance(item, ast.Constant)]
    return []


def module_summary(module: str) -> str:
    """Return the first paragraph of a module's docstring; nothing where its source cannot be found."""
    tree = _tree(module)
    return _documentation(ast.get_docstring(tree) or "")[0] if tree else ""


@cache
def definition(path: str, depth: int = 0) -> Definition | None:
    """Find the statement that defines a dotted path, or None.

    Args:
        path: Dotted path.
        depth: Imports followed so far; they may form a cycle.
    """
    module, _, name = path.rpartition(".")
    if not module or depth > 8:
        return None
    tree = _tree(module)
    if tree is None:  # perhaps the method of a class
        owner = definition(module, depth + 1)
        if owner is None or not isinstance(owner.node, ast.ClassDef):
            return None
        return _member(owner, name)
    for node in _statements(tree.body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return Definition(module, node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in _assigned(node):
            return Definition(module, node)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and (source := _source(module, node)):
                    return definition(f"{source}.{alias.name}", depth + 1)
    return None


@cache
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError, SyntaxError):
        return None


@cache
def _file(module: str) -> Path | None:
    package, *parts = module.split(".")
    try:
        spec = find_spec(package)  # of a top-level package: imports nothing
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    if not spec.submodule_search_locations:
        return None if parts else Path(spec.origin)
    base = Path(spec.submodule_search_locations[0], *parts)
    candidates = (base / "__init__.py", base.with_suffix(".py") if parts else base / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, and those in the bodies of its ``if`` and ``try`` statements."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements(node.body)


def _source(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = _file(module)
    parts = module.split(".") if file and file.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _member(owner: Definition, name: str) -> Definition | None:
    assert isinstance(owner.node, ast.ClassDef)
    for node in owner.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Definition(owner.module, node)
    for base in owner.node.bases:
        found = definition(f"{owner.module}.{ast.unparse(base)}") if isinstance(base, ast.Name) else None
        if found and isinstance(found.node, ast.ClassDef) and (member := _member(found, name)):
            return member
    return None


def _described(owner: Definition) -> dict[str, str]:
    """Return the descriptions of parameters in a class's docstring, else in that of the first base that has any."""
    assert isinstance(owner.node, ast.ClassDef)
    described = _documentation(ast.get_docstring(owner.node) or "")[1]
    bases = (definition(f"{owner.module}.{base.id}") for base in owner.node.bases if isinstance(base, ast.Name))
    classes = [base for base in bases if base and isinstance(base.node, ast.ClassDef)]
    return described or next(filter(None, map(_described, classes)), {})


def _fields(node: ast.ClassDef, described: dict[str, str]) -> Iterator[tuple[str, Parameter]]:
    """Yield the name and parameter of each field, if the class is a dataclass."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, value = statement.target.id, statement.value
            default = None if value is None else ast.unparse(value)
            if default is not None and (factory := re.search(r"default_factory=(list|dict)", default)):
                default = "[]" if factory[1] == "list" else "{}"
            yield name, Parameter(name, statement.annotation, default, described.get(name, ""))


def _parameters(node: ast.FunctionDef, described: dict[str, str]) -> Iterator[tuple[str, Parameter]]:
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults)) + [*node.args.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    for argument, default in pairs:
        if argument.arg in ("self", "cls"):
            continue
        text = None if default is None else ast.unparse(default)
        yield argument.arg, Parameter(argument.arg, argument.annotation, text, described.get(argument.arg, ""))


def _documentation(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a Google-style docstring, and its descriptions of arguments or attributes."""
    docstring = inspect.cleandoc(docstring)
    summary = " ".join(docstring.partition("\n\n")[0].split())
    described: dict[str, str] = {}
    for section in re.finditer(r"^(?:Args|Attributes|Arguments):[ ]*\n((?:[ ]+.*\n|\s*\n)*)", docstring + "\n", re.M):
        name, indent = "", re.match(r"\s*", section[1])
        width = len(indent[0].lstrip("\n")) if indent else 4
        for line in section[1].splitlines():
            entry = re.match(rf"[ ]{{{width}}}\*{{0,2}}(\w+)(?:\s*\([^)]*\))?:\s*(.*)", line)
            if entry:
                name = entry[1]
                described[name] = entry[2].strip()
            elif name and line.strip():
                described[name] = f"{described[name]} {line.strip()}".strip()
    return re.sub(r"``?", "", summary), {name: _plain(text) for name, text in described.items()}


def _plain(text: str) -> str:
    """Remove reStructuredText's markup and a final "Default: ..." from a description."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    text = re.sub(r"\s*Default: .*$", "", text)
    return re.sub(r"``?", "", text)
