"""Drop the options of a class when another class replaces it.

The parser would keep every option that the two have in common: the learning rate of SGD for AdamW, the crops of CIFAR
for digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.choices import SLOTS, resolve
from acnet_pl.config.defaults import DEFAULT_FILES
from acnet_pl.config.files import read_config
from acnet_pl.config.settings import Setting, settings_of_arguments, settings_of_files

__all__ = ["settled"]

# Lightning has a class of the same name as torch's, so that the parser does not know which is meant.
_AMBIGUOUS = ("ReduceLROnPlateau",)


def settled(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove from configurations the descriptions of classes that a later source replaces.

    Args:
        args: The command and its arguments.

    Returns:
        The arguments, in which a changed configuration stands in place of its file; and a sentence for every class
        whose options were left out.

    Raises:
        UsageError: A configuration cannot be read.
    """
    arguments = Arguments(args)
    settings = [*settings_of_files(DEFAULT_FILES), *settings_of_arguments(arguments)]
    dropped: dict[int, list[str]] = {}
    notes = []
    for slot in SLOTS:
        chosen = [setting for setting in settings if setting.name == slot and isinstance(setting.value, str)]
        start = next((i for i in reversed(range(1, len(chosen))) if not _alike(slot, chosen[i - 1], chosen[i])), 0)
        if start == 0:
            continue
        last = chosen[start]
        replaced = [
            setting
            for setting in settings
            if setting.name.startswith(f"{slot}.") and setting.position < last.position and setting.source is not None
        ]
        for setting in (*chosen[:start], *replaced):
            if setting.source is not None and setting.position >= 0:
                dropped.setdefault(setting.position, []).append(slot)
        if replaced:
            values = {setting.name.rpartition(".")[2]: setting.value for setting in replaced}
            options = ", ".join(f"{name}={value}" for name, value in values.items())
            notes.append(f"{last.typed} {_name(last)} replaces {_name(chosen[start - 1])}; not kept: {options}")
    return _rewritten(arguments, dropped), notes


def _rewritten(arguments: Arguments, dropped: dict[int, list[str]]) -> list[str]:
    words = list(arguments.words)
    for option in reversed(arguments.options):
        if option.value is None:
            continue
        length = 1 if "=" in words[option.position] else 2
        if option.name.removesuffix(".class_path") in SLOTS and option.value in _AMBIGUOUS:
            full = resolve(option.name.removesuffix(".class_path"), option.value)
            words[option.position : option.position + length] = [f"{option.typed}={full}"]
        elif option.name == "config":
            content = read_config(option.value)
            changed = _without(content, dropped.get(option.position, ()))
            if changed != content or (not content and "://" not in option.value):  # the parser takes no empty file
                words[option.position : option.position + length] = [f"--config={json.dumps(changed)}"]
    return words


def _without(content: dict[str, Any], slots: Sequence[str]) -> dict[str, Any]:
    """Return a configuration without the entries of some slots, and with full names in place of ambiguous ones."""
    changed = json.loads(json.dumps(content, default=str))
    for slot in SLOTS:
        *parents, last = slot.split(".")
        place = changed
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            continue
        if slot in slots:
            del place[last]
        elif place[last] in _AMBIGUOUS:
            place[last] = resolve(slot, place[last])
        elif isinstance(place[last], dict) and place[last].get("class_path") in _AMBIGUOUS:
            place[last]["class_path"] = resolve(slot, place[last]["class_path"])
    return changed  # type: ignore[no-any-return]


def _alike(slot: str, one: Setting, other: Setting) -> bool:
    return _name(one) == _name(other) or resolve(slot, one.value) == resolve(slot, other.value)


def _name(setting: Setting) -> str:
    return str(setting.value).rpartition(".")[2]
