"""Read YAML in which every key is given once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml

__all__ = ["DuplicateKeyError", "parse"]


class DuplicateKeyError(yaml.MarkedYAMLError):
    """A mapping gives one key twice, of which YAML would silently keep the last."""


@lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """Return the content of YAML; the same object for the same text, which is not to be changed.

    Raises:
        DuplicateKeyError: A mapping has a key twice.
        yaml.YAMLError: It is no YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        tree = loader.get_single_node()
        _check_keys(tree, "", set())
        return None if tree is None else loader.construct_document(tree)
    finally:
        loader.dispose()


def _check_keys(node: Any, above: str, seen: set[int]) -> None:
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))  # an anchor may stand in many places
    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(node.value):
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        name = f"{above}{index if key is None else key.value}"
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            word = key.tag, key.value
            if word in first:
                raise DuplicateKeyError(
                    problem=f"{name} is given in line {first[word]} already; keep one of the two",
                    problem_mark=key.start_mark,
                )
            first[word] = key.start_mark.line + 1
        _check_keys(value, f"{name}.", seen)
