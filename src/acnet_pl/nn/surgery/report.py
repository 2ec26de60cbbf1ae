"""ConversionReport: what a conversion did to each convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import nn

from acnet_pl.nn.surgery.tables import html_table, reasons_line, text_table

__all__ = ["ConversionReport", "LayerReport", "attach_report", "conversion_report", "reports_in"]

_ATTRIBUTE = "_acnet_conversion"


@dataclass(frozen=True)
class LayerReport:
    """One convolution of the converted network.

    Attributes:
        name: Its name, or the first one if it is registered under several names.
        layer: A short description, such as "3×3 conv 64→128, stride 2".
        converted: Whether a block replaced it.
        norm: Name of the batch norm that the block replaced too.
        reason: The reason why it was not converted, or why its block replaced no batch norm.
        bias: Whether the convolution has a bias.
        affine: Whether that batch norm has γ and β.
        eps: The eps of that batch norm; 0 if there is none.
    """

    name: str
    layer: str
    converted: bool
    norm: str | None
    reason: str
    bias: bool
    affine: bool
    eps: float


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion, convolution by convolution; ``print`` shows it as a table.

    Attributes:
        layers: One entry for each convolution, in order of registration.
    """

    layers: tuple[LayerReport, ...]

    @property
    def converted(self) -> tuple[LayerReport, ...]:
        """Return the convolutions that blocks replaced."""
        return tuple(layer for layer in self.layers if layer.converted)

    @property
    def skipped(self) -> tuple[LayerReport, ...]:
        """Return the convolutions that stayed."""
        return tuple(layer for layer in self.layers if not layer.converted)

    def reasons(self) -> dict[str, int]:
        """Count the convolutions that stayed for each reason, the most frequent first."""
        return dict(Counter(layer.reason for layer in self.skipped).most_common())

    def rows(self) -> list[dict[str, str | bool | float | None]]:
        """Return one dict for each convolution, for loggers and data frames."""
        return [asdict(layer) for layer in self.layers]

    def summary(self) -> str:
        """Summarise in one line how many convolutions became blocks, and which others stay and why."""
        if not self.skipped:
            return self._counts()
        why = reasons_line((entry.name, entry.reason) for entry in self.skipped)
        return f"{self._counts()}; {len(self.skipped)} left: {why}"

    def _counts(self) -> str:
        with_norm = sum(entry.norm is not None for entry in self.converted)
        of_all = f"{len(self.converted)} of {len(self.layers)} convolutions converted"
        return f"{of_all}, {with_norm} of them with their batch norm"

    def _table(self) -> list[tuple[str, ...]]:
        head = ("convolution", "layer", "becomes", "with batch norm", "note")
        return [
            head,
            *(
                (entry.name, entry.layer, "block" if entry.converted else "-", entry.norm or "-", entry.reason)
                for entry in self.layers
            ),
        ]

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        return html_table(self._table(), self._counts())

    def __str__(self) -> str:
        return f"{text_table(self._table())}\n{self._counts()}"


def conversion_report(acnet: nn.Module) -> ConversionReport:
    """Return what `convert_to_acnet` did to each convolution of a network.

    Args:
        acnet: The result of `convert_to_acnet`, a copy of it, or a module that contains it.

    Raises:
        ValueError: The module contains no converted network, or more than one.

    Examples:
        >>> from acnet_pl.nn import convert_to_acnet
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> print(conversion_report(convert_to_acnet(model)))
        convolution  layer         becomes  with batch norm  note
        -----------  ------------  -------  ---------------  ----------
        0            3×3 conv 3→8  block    1
        3            1×1 conv 8→8  -        -                1×1 kernel
        1 of 2 convolutions converted, 1 of them with their batch norm
    """
    found = list(reports_in(acnet))
    if len(found) != 1:
        what = f"several converted networks ({', '.join(name for name, _, _ in found)})" if found else "none"
        raise ValueError(f"expected a network that convert_to_acnet returned; {type(acnet).__name__} holds {what}")
    return found[0][2]


def reports_in(model: nn.Module) -> Iterator[tuple[str, nn.Module, ConversionReport]]:
    """Iterate over the converted networks in a module, with name, module and report of each."""
    for name, module in model.named_modules():
        report = vars(module).get(_ATTRIBUTE)
        if isinstance(report, ConversionReport):
            yield name, module, report


def attach_report(model: nn.Module, report: ConversionReport) -> None:
    """Attach a report to the converted network."""
    vars(model)[_ATTRIBUTE] = report
