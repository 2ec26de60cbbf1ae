"""Decide which convolutions of a network may become blocks, and give the reason for those that may not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.dataflow import Dataflow
from acnet_pl.nn.surgery.hooks import reads_parameters
from acnet_pl.nn.surgery.plain import why_not_plain
from acnet_pl.nn.surgery.trace import Layer

__all__ = ["Eligibility", "Selection", "describe"]

Selection = str | Iterable[str] | Callable[[str, nn.Conv2d], bool]


class Eligibility:
    """The convolutions that the user chooses and that a block can replace.

    Args:
        include: Names of convolutions or of modules that contain them, globs, or a predicate of name and module; None
            is all.
        exclude: The same kinds of values; None is none.
        kernel_sizes: Kernel sizes to convert; None is all.
        why_plain: Returns the reason why a square kernel of a size stays plain, or "" if it becomes a block.
    """

    def __init__(
        self,
        include: Selection | None,
        exclude: Selection | None,
        kernel_sizes: int | Collection[int] | None,
        why_plain: Callable[[int], str],
    ) -> None:
        self.why_plain = why_plain
        self.include = _as_selection("include", include)
        self.exclude = _as_selection("exclude", exclude)
        self.kernel_sizes = {kernel_sizes} if isinstance(kernel_sizes, int) else kernel_sizes

    def check(self, convs: Mapping[str, nn.Conv2d]) -> None:
        """Raise ValueError for a name or glob that matches no convolution."""
        for argument in ("include", "exclude"):
            selection = getattr(self, argument)
            for pattern in () if selection is None or callable(selection) else selection:
                if not any(_matches(name, pattern) for name in convs):
                    close = get_close_matches(pattern, convs, n=3, cutoff=0.5)
                    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                    raise ValueError(f"`{argument}`: {pattern!r} matches no Conv2d of the model{hint}")

    def obstacle(self, name: str, layer: Layer, flow: Dataflow) -> str:
        """Return the reason why a convolution is not converted, or "" if it may be."""
        if isinstance(layer, FusibleConv):
            return f"already a block ({type(layer).__name__})"
        if isinstance(layer, _ConvTransposeNd):
            return "transposed convolution"
        if not isinstance(layer, nn.Conv2d):
            return f"{type(layer).__name__}, not a Conv2d"
        height, width = (*layer.weight.shape[2:],) if layer._parameters.get("weight") is not None else layer.kernel_size
        if height != width:
            return f"rectangular kernel {height}×{width}"
        if reason := self.why_plain(height) or why_not_plain(layer):
            return reason
        if self.include is not None and not _selects(self.include, name, layer):
            return "not included"
        if self.exclude is not None and _selects(self.exclude, name, layer):
            return "excluded"
        if self.kernel_sizes is not None and height not in self.kernel_sizes:
            return f"kernel size {height} not among kernel_sizes"
        if name in flow.read | flow.asked:
            return "its weight is read other than by calling it"
        if own := {*layer._parameters, *layer._buffers, *layer._modules} - {"weight", "bias"}:
            return f"it holds more than a weight and a bias ({', '.join(sorted(own))})"
        if reads_parameters(layer):
            return "a hook reads or changes its parameters"
        if name not in flow.called and not flow.obstacle:
            return "is not called now (give an `example_input` whose arguments take its path)"
        return ""


def describe(layer: Layer) -> str:
    """Describe a convolution in a few words.

    Examples:
        >>> describe(nn.Conv2d(64, 128, 3, stride=2, groups=64))
        '3×3 conv 64→128, stride 2, groups 64'
    """
    if not isinstance(layer, (_ConvNd, FusibleConv)):
        return type(layer).__name__
    kernel, stride, dilation = (  # a number where the attribute was set
        value if isinstance(value, tuple) else (value,) for value in (layer.kernel_size, layer.stride, layer.dilation)
    )
    text = f"{'×'.join(map(str, kernel))} conv {layer.in_channels}→{layer.out_channels}"
    for name, value in (("stride", stride), ("dilation", dilation)):
        if set(value) != {1}:
            text += f", {name} {value[0] if len(set(value)) == 1 else '×'.join(map(str, value))}"
    return text + (f", groups {layer.groups}" if layer.groups != 1 else "")


def _as_selection(
    argument: str, selection: Selection | None
) -> tuple[str, ...] | Callable[[str, nn.Conv2d], bool] | None:
    if selection is None or callable(selection):
        return selection
    given: Any = [selection] if isinstance(selection, str) else selection
    patterns = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(one, str) for one in patterns):
        raise TypeError(
            f"`{argument}` (={selection!r}) must be a name, a glob, several of them, or a function of a convolution's "
            "name and the nn.Conv2d"
        )
    return patterns


def _selects(selection: tuple[str, ...] | Callable[[str, nn.Conv2d], bool], name: str, conv: nn.Conv2d) -> bool:
    if callable(selection):
        return selection(name, conv)
    return any(_matches(name, pattern) for pattern in selection)


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)
