"""Conversion of any network: each square convolution, together with its batch norm, becomes a block."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.acb import ACBlock, BranchNorm, Position
from acnet_pl.nn.conv import ConvBuilder, ConvNorm
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.copying import deep_copy
from acnet_pl.nn.surgery.dataflow import follow
from acnet_pl.nn.surgery.eligibility import Eligibility, Selection, describe
from acnet_pl.nn.surgery.fuse import replace_modules
from acnet_pl.nn.surgery.inherit import inherit_layer
from acnet_pl.nn.surgery.plain import activation_of, why_norm_not_plain
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, attach_report, conversion_report, reports_in
from acnet_pl.nn.surgery.trace import Layer, layers, listed

__all__ = ["Init", "convert_to_acnet", "convert_with"]

Init = Literal["scratch", "preserve"]


def convert_to_acnet(
    model: nn.Module,
    example_input: Any = None,
    *,
    init: Init = "scratch",
    include: Selection | None = None,
    exclude: Selection | None = None,
    kernel_sizes: int | Collection[int] | None = None,
    horizontal: bool = True,
    vertical: bool = True,
    branch_norm: BranchNorm = True,
    asymmetric_size: int | None = None,
    position: Position = "skeleton",
    gamma_init: float = 1.0,
) -> nn.Module:
    """The ACNet of a network: a copy in which an `ACBlock` takes the place of each square convolution (Sect. 3.3).

    A block replaces a convolution "together with the following batch normalization layer, if any", where the data flow
    proves that this batch norm normalises the convolution's output and nothing else, and that nothing else uses this
    output. The batch norm leaves an ``nn.Identity``, or its activation where it carries one (timm's
    ``BatchNormAct2d``). A block that takes no batch norm over still has those of its branches.

    Eligible is every plain ``nn.Conv2d`` with a square odd kernel of 3×3 or more: grouped, depthwise, with any stride,
    dilation, padding and padding mode. `conversion_report` says what became of each convolution.

    Args:
        model: Any module, which stays as it is.
        example_input: Shows the data flow where torch.fx cannot trace the network (control flow that depends on data):
            a tensor, a tuple of positional arguments or a dict of keyword arguments, on the model's device.
        init: "scratch" draws fresh kernels. "preserve" keeps the function: in eval mode the ACNet computes what the
            model does, and the new branches start inactive and learn from the first steps on. In train mode a block
            normalises also where the model had no batch norm.
        include: Convert only these: names, the names of modules that hold them, globs ("layer[34].*"), or a function
            of name and module.
        exclude: Leave these as they are; takes precedence.
        kernel_sizes: Convert only kernels of these sizes; None is every odd size from 3 on.
        horizontal: As `ACBlock`'s, like all that follow.
        vertical: Have the k×1 branch.
        branch_norm: A batch norm in every branch; False or "scale" is one after the sum, see `ACBlock`.
        asymmetric_size: Length of the 1-D kernels, None for each layer's kernel size.
        position: "skeleton" or "border".
        gamma_init: Initial γ of the branches; of no effect with "preserve".

    Raises:
        ValueError: There is nothing to convert, a name matches no convolution, an option does not fit, or the data
            flow cannot be followed without an ``example_input``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> acnet = convert_to_acnet(model, init="preserve")
        >>> [type(layer).__name__ for layer in acnet]
        ['ACBlock', 'Identity', 'ReLU', 'Conv2d']
    """

    def build(conv: nn.Conv2d, norm: bool) -> ACBlock:
        return ACBlock(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
            (conv.dilation[0], conv.dilation[1]),
            conv.groups,
            conv.padding_mode,
            horizontal=horizontal,
            vertical=vertical,
            branch_norm=branch_norm,
            asymmetric_size=asymmetric_size,
            position=position,
            gamma_init=gamma_init,
        )

    acnet = _convert(model, build, example_input, init, Eligibility(include, exclude, kernel_sizes))
    _require_blocks(acnet)
    return acnet


def convert_with(
    model: nn.Module,
    conv: ConvBuilder,
    example_input: Any = None,
    *,
    init: Init = "scratch",
    include: Selection | None = None,
    exclude: Selection | None = None,
    kernel_sizes: int | Collection[int] | None = None,
) -> nn.Module:
    """As `convert_to_acnet`, with blocks of any kind: a ConvBuilder decides what each eligible convolution becomes.

    Where it builds a `ConvNorm`, as `PlainConv` always does, the convolution stays as it is. Options and errors as
    `convert_to_acnet`'s, but that a builder of plain convolutions finds nothing to convert in any network.

    Example:
        >>> from acnet_pl.nn import PlainConv
        >>> convert_with(nn.Sequential(nn.Conv2d(3, 8, 3)), PlainConv())
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """

    def build(layer: nn.Conv2d, norm: bool) -> FusibleConv | str:
        if layer.padding_mode != "zeros":
            return f"padding mode '{layer.padding_mode}', which {conv!r} does not build"
        padding = (0, 0) if layer.padding == "valid" else layer.padding
        if padding == "same" or isinstance(padding, str):
            padding = (layer.dilation[0] * (layer.kernel_size[0] // 2), layer.dilation[1] * (layer.kernel_size[1] // 2))
        numbers = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}
        for name, value in numbers.items():
            if value[0] != value[1]:
                return f"{name} {value[0]}×{value[1]}, which {conv!r} does not build"
        arguments = {name: value[0] for name, value in numbers.items()}
        size = layer.kernel_size[0]
        block = conv(layer.in_channels, layer.out_channels, size, groups=layer.groups, norm=norm, **arguments)
        if not isinstance(block, FusibleConv) or block.is_plain:
            return f"stays plain by {conv!r}"
        return block

    acnet = _convert(model, build, example_input, init, Eligibility(include, exclude, kernel_sizes))
    if not isinstance(conv(1, 1, 11), ConvNorm):
        _require_blocks(acnet)
    return acnet


def _require_blocks(acnet: nn.Module) -> None:
    report = conversion_report(acnet)
    if not report.converted:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in report.reasons().items())
        what = f"of its {len(report.layers)} convolutions none is eligible ({reasons})" if reasons else "no convolution"
        raise ValueError(f"{type(acnet).__name__} has nothing to convert to an ACNet: {what}")


def _convert(
    model: nn.Module,
    build: Callable[[nn.Conv2d, bool], FusibleConv | str],
    example_input: Any,
    init: Init,
    eligibility: Eligibility,
) -> nn.Module:
    """A copy with blocks and a report. ``build`` returns a block or the reason why there is none."""
    if init not in get_args(Init):
        raise ValueError(f"`init` (={init!r}) must be one of {', '.join(map(repr, get_args(Init)))}")
    if any(True for _ in reports_in(model)):
        raise ValueError(
            "the model has been converted already; convert the original, with all options in one call, or, to go on "
            "from these weights, load stock_state_dict(acnet) into the original first"
        )
    acnet = deep_copy(model)
    found = dict(layers(acnet))
    eligibility.check({name: layer for name, layer in found.items() if isinstance(layer, nn.Conv2d)})
    flow = follow(acnet, example_input)

    entries, unknown = [], []
    replacements: dict[nn.Module, nn.Module] = {}
    for name, layer in found.items():
        if isinstance(layer, _BatchNorm):
            continue
        norm_name, without = flow.norm_of.get(name), flow.norm_missing.get(name, "")
        norm = found[norm_name] if norm_name is not None else None
        if isinstance(norm, _BatchNorm) and (why := why_norm_not_plain(norm)):
            norm, without = None, f"batch norm `{norm_name}`: {why}"
        assert norm is None or isinstance(norm, _BatchNorm)
        reason = eligibility.obstacle(name, layer, flow)
        if not reason and isinstance(layer, nn.Conv2d):
            try:
                block = build(layer, norm is not None)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from error
            if isinstance(block, str):
                reason = block
            else:
                unknown += [name] * (name in flow.unknown)
                inherit_layer(block, layer, norm)
                if init == "preserve":
                    block.begin_as(layer, norm)
                replacements[layer] = block
                if norm is not None:
                    replacements[norm] = activation_of(norm)
        entries.append(_entry(name, layer, reason, without, norm_name, norm))
    if unknown:
        raise ValueError(
            f"which batch norms belong to {listed(unknown)} cannot be told: torch.fx does not trace the model "
            f"({flow.obstacle}); give an `example_input`, such as torch.zeros(1, 3, 224, 224)"
        )
    acnet = replace_modules(acnet, replacements)
    attach_report(acnet, ConversionReport(tuple(entries)))
    return acnet


def _entry(
    name: str, layer: Layer, reason: str, without: str, norm_name: str | None, norm: _BatchNorm | None
) -> LayerReport:
    """Report a convolution that stayed for a reason, or became a block where there is none, with or without a norm."""
    converted = not reason
    return LayerReport(
        name=name,
        layer=describe(layer),
        converted=converted,
        norm=norm_name if converted and norm is not None else None,
        reason=reason or ("" if norm is not None else without),
        bias=getattr(layer, "bias", None) is not None,
        affine=norm is not None and norm.affine,
        eps=norm.eps if norm is not None else 0.0,
    )
