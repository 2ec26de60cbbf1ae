"""Find which values a parameter takes, from its annotation."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from acnet_pl.config.signatures import definition

__all__ = ["Values", "values_of"]

_SIMPLE = {"int": "an int", "float": "a float", "bool": "true or false", "None": "null"}
_NULL = ("null", "Null", "NULL", "~", "", "None")
_BOOL = ("true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True)
class Values:
    """Values that an annotation allows.

    Attributes:
        types: Names of the simple types among its alternatives.
        choices: Values of its ``Literal``, as text.
        is_known: Whether there is nothing else, so that a value can be refused.
    """

    types: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_known: bool = True

    def __str__(self) -> str:
        names = sorted(dict.fromkeys(self.types), key=lambda name: name == "None")
        parts = [_SIMPLE[name] for name in names]
        if self.choices:
            choices = ", ".join(dict.fromkeys(self.choices))
            parts.insert(0, f"one of {choices}" if len(self.choices) > 1 else choices)
        return " or ".join(parts)

    def __or__(self, other: Values) -> Values:
        return Values(self.types + other.types, self.choices + other.choices, self.is_known and other.is_known)

    def refuse(self, text: str) -> bool:
        """Return True if a text is certainly none of these values."""
        if not self.is_known or text in self.choices or text.startswith(("{", "[", "!", "'", '"')):
            return False
        return not any(_may_be(text, name) for name in self.types)


_UNKNOWN = Values(is_known=False)


def values_of(annotation: ast.expr | None, module: str) -> Values:
    """Return the values that an annotation allows.

    Args:
        annotation: Annotation of a parameter.
        module: The module whose names it uses.
    """
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):  # in quotes
            return values_of(ast.parse(annotation.value, mode="eval").body, module)
        return Values(types=("None",)) if annotation.value is None else _UNKNOWN
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return values_of(annotation.left, module) | values_of(annotation.right, module)
    if isinstance(annotation, ast.Subscript):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return _subscript(ast.unparse(annotation.value).rpartition(".")[2], items, module)
    if not isinstance(annotation, ast.Name):
        return _UNKNOWN
    if annotation.id in _SIMPLE:
        return Values(types=(annotation.id,))
    if annotation.id == "Tensor":
        return Values()  # which no text gives
    alias = definition(f"{module}.{annotation.id}")
    if alias is None or not isinstance(alias.node, (ast.Assign, ast.AnnAssign)) or alias.node.value is None:
        return _UNKNOWN
    return values_of(alias.node.value, alias.module)


def _subscript(kind: str, items: list[ast.expr], module: str) -> Values:
    if kind == "Literal":
        constants = [item.value for item in items if isinstance(item, ast.Constant)]
        return Values(choices=tuple(map(str, constants))) if len(constants) == len(items) else _UNKNOWN
    if kind not in ("Union", "Optional"):
        return _UNKNOWN
    found = Values(types=("None",)) if kind == "Optional" else Values()
    for item in items:
        found |= values_of(item, module)
    return found


def _may_be(text: str, name: str) -> bool:
    if name == "None":
        return text in _NULL
    if name == "bool":
        return text.lower() in _BOOL
    if re.fullmatch(r"0[xob][0-9a-fA-F_]+", text):
        return True
    try:
        number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return False
    return name == "float" or number == number // 1
