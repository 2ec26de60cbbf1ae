"""Read YAML in which every key is given once, of a size that can be walked through."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml

__all__ = ["DuplicateKeyError", "TooLargeError", "parse"]

_LARGEST = 100_000
"""Values that a file may stand for, every alias in full: the largest recipe has a hundred."""

_LONGEST_NUMBER = 1000


class DuplicateKeyError(yaml.MarkedYAMLError):
    """A mapping gives one key twice, of which YAML would silently keep the last."""


class TooLargeError(yaml.MarkedYAMLError):
    """Aliases stand for more values than anybody writes, or for themselves, or a number has too many digits."""


@lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """Return the content of YAML; the same object for the same text, which is not to be changed.

    Raises:
        DuplicateKeyError: A mapping has a key twice.
        TooLargeError: Its aliases or numbers are too large to go on with.
        yaml.YAMLError: It is no YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        tree = loader.get_single_node()
        _check_keys(tree, "", set())
        _count(tree, {})
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
        if isinstance(value, yaml.ScalarNode) and len(value.value) > _LONGEST_NUMBER and value.tag.endswith(":int"):
            raise TooLargeError(
                problem=f"{name} is a number of {len(value.value)} characters, expected at most {_LONGEST_NUMBER}",
                problem_mark=value.start_mark,
            )
        _check_keys(value, f"{name}.", seen)


def _count(node: Any, known: dict[int, int | None]) -> int:
    """Return how many values a node stands for.

    Args:
        node: Node of a document; None for an empty one.
        known: Counts by the node's id, which this completes; None while a node is being counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None
        items = [part for item in node.value for part in (item if isinstance(node, yaml.MappingNode) else (item,))]
        known[id(node)] = total = 1 + sum(_count(item, known) for item in items)
        if total > _LARGEST:
            raise TooLargeError(
                problem=f"its aliases stand for more than {_LARGEST:,} values; write out what is meant",
                problem_mark=node.start_mark,
            )
    count = known[id(node)]
    if count is None:
        raise TooLargeError(problem="an alias stands for what it is in", problem_mark=node.start_mark)
    return count
