"""Convert any network: each square convolution, together with its batch norm, becomes a block."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import deprecated

from acnet_pl.nn.acb import BranchNorm, Position
from acnet_pl.nn.conv import ACBConv, ConvBuilder
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.replaced import why_class_replaced
from acnet_pl.nn.surgery.calibration import moments_over_batches, passing_norm
from acnet_pl.nn.surgery.checking import changed_path
from acnet_pl.nn.surgery.copying import deep_copy, light_copy, refuse_equal, refuse_lazy, uncompiled
from acnet_pl.nn.surgery.dataflow import follow
from acnet_pl.nn.surgery.eligibility import Eligibility, Selection, describe
from acnet_pl.nn.surgery.hooks import refuse_global_hooks
from acnet_pl.nn.surgery.inherit import inherit_layer
from acnet_pl.nn.surgery.plain import activation_of, why_norm_not_plain
from acnet_pl.nn.surgery.replacing import replace_modules
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, attach_report, reports_in
from acnet_pl.nn.surgery.ties import refuse_shared_memory, ties
from acnet_pl.nn.surgery.trace import Layer, layers, listed
from acnet_pl.nn.surgery.units import keep_units

__all__ = ["Init", "convert", "convert_to_acnet", "convert_with"]

Init = Literal["scratch", "preserve"]


def convert(
    model: nn.Module,
    conv: ConvBuilder,
    example_input: Any = None,
    *,
    init: Init = "scratch",
    include: Selection | None = None,
    exclude: Selection | None = None,
    kernel_sizes: int | Collection[int] | None = None,
    calibrate: Iterable[Any] | None = None,
) -> nn.Module:
    """Return a copy of a network in which a block replaces each convolution that the builder has a block for.

    A block replaces a convolution "together with the following batch normalization layer, if any" (Sect. 3.3). The data
    flow must prove that the batch norm normalises only the convolution's output, which nothing else may use. The batch
    norm becomes an ``nn.Identity``, or its activation if it has one (timm's ``BatchNormAct2d``). A block that replaces
    no batch norm still has its own.

    A convolution or batch norm that shares tensors with another layer (tied weights) stays as it is.

    Every plain ``nn.Conv2d`` is eligible if its kernel is square and of a size that the builder has blocks for. It may
    be grouped or depthwise and have any stride, dilation, padding and padding mode. `conversion_report` lists what
    happened to each convolution and why. A builder of plain convolutions (`PlainConv`) leaves all of them as they are.

    Args:
        model: Any module. It is not changed.
        conv: Builds the blocks: `ACBConv`, `DBBConv`, `RepVGGConv`, ... or your own.
        example_input: Input for networks that torch.fx cannot trace (control flow that depends on data): a tensor, a
            tuple of positional arguments or a dict of keyword arguments, on the model's device.
        init: "scratch" draws new kernels. "preserve" keeps the function: in eval mode the new network computes what the
            model computes; the new branches start inactive and learn from the first steps on. In train mode it does so
            too, but for blocks that have their own batch norm where the model had none: a warning names these.
        include: Convert only these convolutions: their names, names of modules that contain them, globs
            ("layer[34].*"), or a function of name and module.
        exclude: Leave these convolutions as they are, even if they are included.
        kernel_sizes: Convert only kernels of these sizes; None is every size that the builder has blocks for.
        calibrate: With "preserve", batches of images ``(N, C, H, W)``, or tuples that begin with them: where the model
            had no batch norm, the block's own takes the statistics of what the model computes on them, and γ and β that
            undo them, so that training starts nearly from what the model computes.

    Raises:
        ValueError: There is nothing to convert, a name matches no convolution, an option does not fit, or following the
            data flow needs an ``example_input``.
        TypeError: ``model`` is no network, ``conv`` no builder, or one of other things than blocks and plain layers.

    Examples:
        >>> from acnet_pl.nn import ACBConv
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> [type(layer).__name__ for layer in convert(model, ACBConv(gamma_init=1 / 3))]
        ['ACBlock', 'Identity', 'ReLU', 'Conv2d']
    """
    _check_builder(conv)
    if init not in get_args(Init):
        raise ValueError(f"`init` (={init!r}) must be one of {', '.join(map(repr, get_args(Init)))}")
    if calibrate is not None and init != "preserve":
        raise ValueError(f"`calibrate` is for init='preserve', got init={init!r}, which draws new kernels")
    model = uncompiled(model)
    if any(True for _ in reports_in(model)):
        raise ValueError(
            "the model has been converted already; convert the original, with all options in one call, or, to go on "
            "from these weights, load stock_state_dict(acnet) into the original first"
        )
    refuse_lazy(model)
    refuse_equal(model)
    refuse_global_hooks()
    refuse_shared_memory(model)
    if conv.builds_blocks and (why := why_class_replaced(nn.Conv2d) or why_class_replaced(nn.BatchNorm2d)):
        raise ValueError(f"{why}, so that the layers of blocks would compute something else too; undo that first")
    acnet = deep_copy(model)
    found = dict(layers(acnet))
    eligibility = Eligibility(include, exclude, kernel_sizes, conv.why_plain)
    eligibility.check({name: layer for name, layer in found.items() if isinstance(layer, nn.Conv2d)})
    if conv.builds_blocks and all(isinstance(layer, (_BatchNorm, nn.Linear)) for layer in found.values()):
        traced = any(isinstance(module, fx.GraphModule) for module in acnet.modules())
        way_out = "; a trace or export may have made operations of them: convert first" if traced else ""
        raise ValueError(f"{type(acnet).__name__} has nothing to convert with {conv!r}: no convolution{way_out}")
    flow = follow(acnet, example_input)

    tied = ties(acnet)
    entries, unknown = [], []
    replacements: dict[nn.Module, nn.Module] = {}
    beginning: dict[str, tuple[FusibleConv, nn.Conv2d, _BatchNorm | None]] = {}
    for name, layer in found.items():
        if isinstance(layer, (_BatchNorm, nn.Linear)):
            continue
        norm_name, without = flow.norm_of.get(name), flow.norm_missing.get(name, "")
        norm = found[norm_name] if norm_name is not None else None
        if isinstance(norm, _BatchNorm) and (
            why := why_norm_not_plain(norm) or next(iter(tied.get(norm, {}).values()), "")
        ):
            norm, without = None, f"batch norm `{norm_name}`: {why}"
        assert norm is None or isinstance(norm, _BatchNorm)
        reason = next(iter(tied.get(layer, {}).values()), "") or eligibility.obstacle(name, layer, flow)
        if not reason and isinstance(layer, nn.Conv2d):
            try:
                with torch.device("cpu"):  # whatever the default device is; it may be "meta"
                    block = _build(conv, layer, norm is not None)
                    if not block.is_plain:
                        inherit_layer(block, layer, norm)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from error
            if block.is_plain:
                reason = f"stays plain by {conv!r}"
            else:
                unknown += [name] * (name in flow.unknown)
                beginning[name] = block, layer, norm
                replacements[layer] = block
                if norm is not None and norm_name is not None:
                    rank = None if isinstance(norm, nn.BatchNorm2d) else 4
                    replacements[norm] = activation_of(norm, rank, norm_name)
        entries.append(_entry(name, layer, reason, without, norm_name, norm))
    if unknown:
        raise ValueError(
            f"cannot determine which batch norms belong to {listed(unknown)}: torch.fx does not trace the model "
            f"({flow.obstacle}); give an `example_input`, such as torch.zeros(1, 3, 224, 224)"
        )
    report = ConversionReport(tuple(entries))
    if conv.builds_blocks and not report.converted:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in report.reasons().items())
        raise ValueError(
            f"{type(acnet).__name__} has nothing to convert with {conv!r}: none of its {len(report.layers)} "
            f"convolutions is eligible ({reasons})"
        )
    if init == "preserve":
        _begin(acnet, beginning, calibrate)
    acnet = replace_modules(acnet, replacements)
    replaced = [name for entry in report.converted for name in (entry.name, entry.norm) if name is not None]
    preserved = init == "preserve"
    difference = changed_path(light_copy(model), acnet, replaced, example_input, same=preserved) if replaced else ""
    if difference:
        raise ValueError(
            f"with blocks in it the code of the network behaves differently ({difference}): it checks the class, an "
            "attribute or the number of its layers; check something that blocks have too, or exclude these layers"
        )
    attach_report(acnet, report)
    keep_units(acnet, {entry.name: entry for entry in report.converted}, found)
    return acnet


def convert_to_acnet(
    model: nn.Module,
    example_input: Any = None,
    *,
    init: Init = "scratch",
    include: Selection | None = None,
    exclude: Selection | None = None,
    kernel_sizes: int | Collection[int] | None = None,
    calibrate: Iterable[Any] | None = None,
    horizontal: bool = True,
    vertical: bool = True,
    branch_norm: BranchNorm = True,
    asymmetric_size: int | None = None,
    position: Position = "skeleton",
    gamma_init: float = 1.0,
) -> nn.Module:
    """Return a copy of a network as its ACNet: an `ACBlock` replaces each square convolution (Sect. 3.3).

    The function calls `convert` with an `ACBConv`; both explain the arguments and errors in detail.

    Args:
        model: Any module. It is not changed.
        example_input: Input for networks that torch.fx cannot trace.
        init: "scratch" or "preserve".
        include: Convert only these convolutions.
        exclude: Leave these convolutions as they are.
        kernel_sizes: Convert only kernels of these sizes; None is every odd size from 3 on.
        calibrate: With "preserve", batches of images for blocks where the model has no batch norm.
        horizontal: Whether blocks have the 1×k branch.
        vertical: Whether blocks have the k×1 branch.
        branch_norm: True is a batch norm in every branch; False or "scale" is one after the sum, see `ACBlock`.
        asymmetric_size: Length of the 1-D kernels; None is each layer's kernel size.
        position: "skeleton" or "border".
        gamma_init: Initial γ of the branches; it has no effect with "preserve".

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> acnet = convert_to_acnet(model, init="preserve")
        >>> [type(layer).__name__ for layer in acnet]
        ['ACBlock', 'Identity', 'ReLU', 'Conv2d']
    """
    conv = ACBConv(horizontal, vertical, branch_norm, asymmetric_size, position, gamma_init)
    return convert(
        model,
        conv,
        example_input,
        init=init,
        include=include,
        exclude=exclude,
        kernel_sizes=kernel_sizes,
        calibrate=calibrate,
    )


@deprecated("convert_with is now convert; the old name will be removed in the next version")
def convert_with(model: nn.Module, conv: ConvBuilder, example_input: Any = None, **options: Any) -> nn.Module:
    """Call `convert`; this is its old name."""
    return convert(model, conv, example_input, **options)


def _check_builder(conv: object) -> None:
    if not isinstance(conv, ConvBuilder):
        example = f"{conv.__name__}()" if isinstance(conv, type) and issubclass(conv, ConvBuilder) else "DBBConv()"
        raise TypeError(f"`conv` (={conv!r}) must be a builder of convolutions, such as {example}")


def _begin(
    model: nn.Module,
    blocks: Mapping[str, tuple[FusibleConv, nn.Conv2d, _BatchNorm | None]],
    calibrate: Iterable[Any] | None,
) -> None:
    """Have each block compute what a convolution of the model and its batch norm do."""
    without = [name for name, (_, _, norm) in blocks.items() if norm is None]
    moments = moments_over_batches(model, without, calibrate) if calibrate is not None and without else {}
    for name, (block, layer, norm) in blocks.items():
        if name in moments:
            norm = passing_norm(moments[name], next(block.norms()).eps, layer.weight)
        block.begin_as(layer, norm)
    if bare := [name for name in without if name not in moments]:
        warnings.warn(
            f"{listed(bare)}: the block's own batch norm stands where the model had none, so that in train mode, where "
            "training starts, the network computes something else; give `calibrate`, some batches of images, or "
            "`exclude` these layers",
            stacklevel=4,
        )


def _build(conv: ConvBuilder, layer: nn.Conv2d, norm: bool) -> FusibleConv:
    """Build a convolution's replacement; pass a pair of equal numbers as one number."""
    arguments: dict[str, Any] = {
        name: value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
        for name, value in (("stride", layer.stride), ("padding", layer.padding), ("dilation", layer.dilation))
    }
    if layer.padding_mode != "zeros":
        arguments["padding_mode"] = layer.padding_mode
    channels = layer.in_channels, layer.out_channels
    block = conv(*channels, layer.kernel_size[0], groups=layer.groups, norm=norm, **arguments)
    if not isinstance(block, FusibleConv):
        raise TypeError(f"{conv!r} builds a {type(block).__name__}; convert needs a builder of FusibleConv blocks")
    return block


def _entry(
    name: str, layer: Layer, reason: str, without: str, norm_name: str | None, norm: _BatchNorm | None
) -> LayerReport:
    """Return the report of a convolution that stayed for a ``reason``, or of one that became a block if that is ""."""
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
