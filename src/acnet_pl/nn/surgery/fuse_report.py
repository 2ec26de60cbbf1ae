"""FuseReport: what fusing does to each batch norm of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.tables import html_table, reasons_line, text_table

__all__ = ["FuseReport", "NormReport", "report_on"]


@dataclass(frozen=True)
class NormReport:
    """One batch norm of the reported network.

    Attributes:
        name: Its name, or the first one if it is registered under several names.
        norm: Its class and number of channels, such as "BatchNorm2d(64)".
        into: Names of the layers that it is fused into, or of the block or timm module that it is a part of; () if it
            stays.
        reason: The reason why it stays, or "" if it is fused.
    """

    name: str
    norm: str
    into: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """Result of fusing, batch norm by batch norm; ``print`` shows it as a table.

    Attributes:
        norms: One entry for each batch norm, in order of registration.
    """

    norms: tuple[NormReport, ...]

    @property
    def fused(self) -> tuple[NormReport, ...]:
        """Return the batch norms that are fused."""
        return tuple(norm for norm in self.norms if norm.into)

    @property
    def left(self) -> tuple[NormReport, ...]:
        """Return the batch norms that stay."""
        return tuple(norm for norm in self.norms if not norm.into)

    def reasons(self) -> dict[str, int]:
        """Count the batch norms that stay for each reason, the most frequent first."""
        return dict(Counter(norm.reason for norm in self.left).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict for each batch norm, for loggers and data frames."""
        return [asdict(norm) for norm in self.norms]

    def summary(self) -> str:
        """Summarise in one line how many batch norms are fused, and which others stay and why."""
        text = f"{len(self.fused)} of {len(self.norms)} batch norms fused"
        if not self.left:
            return text
        return f"{text}; {len(self.left)} left: {reasons_line((norm.name, norm.reason) for norm in self.left)}"

    def _table(self) -> list[tuple[str, ...]]:
        head = ("batch norm", "kind", "fused into", "why it stays")
        return [head, *((entry.name, entry.norm, ", ".join(entry.into) or "-", entry.reason) for entry in self.norms)]

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        return html_table(self._table(), str(self).splitlines()[-1])

    def __str__(self) -> str:
        return f"{text_table(self._table())}\n{len(self.fused)} of {len(self.norms)} batch norms fused"


def report_on(
    model: nn.Module, fused: nn.Module, into: Mapping[str, tuple[str, ...]], left: Mapping[str, str]
) -> FuseReport:
    """Build the report of a network's batch norms.

    Args:
        model: The network.
        fused: The fused network.
        into: The layers that batch norms were fused into, by name of the batch norm.
        left: The reasons why other batch norms stay, by name.
    """
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, FusibleConv)}
    stand = dict(fused.named_modules())
    entries = []
    for name, norm in model.named_modules():
        if not isinstance(norm, _BatchNorm):
            continue
        parents = ["", *(name[:at] for at, letter in enumerate(name) if letter == ".")]
        taken = into.get(name, ())
        if not taken and name not in left:
            blocked = [parent for parent in parents if parent in blocks]
            taken = (blocked[0] if blocked else [parent for parent in parents if parent in stand][-1],)
        entries.append(NormReport(name, f"{type(norm).__name__}({norm.num_features})", taken, left.get(name, "")))
    return FuseReport(tuple(entries))
