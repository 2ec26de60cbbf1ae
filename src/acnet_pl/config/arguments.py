"""Words of a command line, before a parser reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Arguments", "Option"]

_NUMBER = re.compile(r"-\d|-\.\d")


@dataclass(frozen=True)
class Option:
    """One option of a command line.

    Attributes:
        typed: The option as the user typed it, without its value: ``--data.batch_size``.
        value: The word that follows it or its equals sign; None where there is none.
        position: Index of its first word.
    """

    typed: str
    value: str | None
    position: int

    @property
    def name(self) -> str:
        """Return the dotted name without dashes, ``init_args`` and a final ``+``; ``config`` for ``-c``."""
        name = re.sub(r"\.init_args\b", "", self.typed.lstrip("-")).rstrip("+")
        return "config" if self.typed == "-c" else name


class Arguments:
    """Command with its options.

    Args:
        words: The command, then its arguments.

    Examples:
        >>> arguments = Arguments(["fit", "--config=a.yaml", "--data", "CIFARDataModule", "--resume", "auto"])
        >>> arguments.command, arguments.configs, arguments.last("resume")
        ('fit', ['a.yaml'], 'auto')
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.command = self.words[0] if self.words else ""
        self.options: list[Option] = []
        self.positional: list[tuple[int, str]] = []
        index = 1
        while index < len(self.words):
            word = self.words[index]
            typed, equals, value = word.partition("=")
            if not _is_option(word):
                self.positional.append((index, word))
            elif equals:
                self.options.append(Option(typed, value, index))
            elif index + 1 < len(self.words) and not _is_option(self.words[index + 1]):
                self.options.append(Option(typed, self.words[index + 1], index))
                index += 1
            else:
                self.options.append(Option(typed, None, index))
            index += 1

    def last(self, name: str) -> str | None:
        """Return the value of the last option of this name, or None."""
        return next((option.value for option in reversed(self.options) if option.name == name), None)

    @property
    def configs(self) -> list[str]:
        """Return the files of ``--config``, in order."""
        return [option.value for option in self.options if option.name == "config" and option.value is not None]


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)
