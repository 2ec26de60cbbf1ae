"""Weights for the architecture without blocks, for converted networks and for backbones."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from acnet_pl.nn import stock_state_dict
from acnet_pl.nn.conv import ConvNorm
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.replacing import replace_modules
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, attach_report, reports_in

__all__ = ["stock_weights"]


def stock_weights(network: nn.Module, stock: nn.Module) -> dict[str, Tensor]:
    """Return weights with which the architecture without blocks computes what the trained network computes.

    Args:
        network: A network that `convert_to_acnet` returned, or one that a backbone built with any ConvBuilder; trained.
        stock: The stock architecture: the model that was given to `convert_to_acnet`, or the same backbone built with
            `PlainConv`. Its values do not matter, and it stays as it is.

    Returns:
        For ``stock.load_state_dict``, strictly. As `acnet_pl.nn.stock_state_dict` says, batch norms become the identity
        plus the bias; a bias that the stock architecture has no place for moves on into later batch norms.

    Raises:
        FusionError: A block cannot be fused, or the stock architecture has no place for its bias.
        ValueError: The network has been fused already, or the two are not of the same architecture.

    Examples:
        >>> from acnet_pl.backbones import CifarQuick
        >>> from acnet_pl.nn import ACBConv, PlainConv
        >>> stock = CifarQuick(PlainConv(), 10)
        >>> stock.load_state_dict(stock_weights(CifarQuick(ACBConv(), 10), stock))
        <All keys matched successfully>
    """
    if any(True for _ in reports_in(network)):
        return stock_state_dict(network)
    plain = {name: module for name, module in stock.named_modules() if isinstance(module, ConvNorm)}
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, FusibleConv)}
    if plain.keys() != blocks.keys():
        odd = sorted(plain.keys() ^ blocks.keys())[:3]
        raise ValueError(
            "the network and its stock architecture have other convolutions"
            + (" (the network has been fused already; give the checkpoint)" if not blocks else "")
            + f": only one of them has {', '.join(f'`{name}`' for name in odd)}"
        )
    # The plain structure around the blocks: each becomes the `conv` of a pair with an empty place for a batch norm.
    like_stock = light_copy(network)
    entries = []
    pairs: dict[nn.Module, nn.Module] = {}
    for name, module in plain.items():
        block = like_stock.get_submodule(name)
        if isinstance(block, ConvNorm) and (block.norm is None) == (module.norm is None):
            layers = {"conv": block.conv, **({} if block.norm is None else {"norm": block.norm})}
        else:
            layers = {"conv": block, **({} if module.norm is None else {"norm": nn.Identity()})}
            entries.append(_entry(name, module, block))
        pairs[block] = nn.Sequential(OrderedDict(layers))
    like_stock = replace_modules(like_stock, pairs)
    attach_report(like_stock, ConversionReport(tuple(entries)))
    try:
        return stock_state_dict(like_stock)
    except FusionError as error:
        raise FusionError(str(error).replace(".conv`", "`")) from error


def _entry(name: str, plain: ConvNorm, block: nn.Module) -> LayerReport:
    """Return the entry that `convert_to_acnet` would record if this block had replaced the plain layers."""
    norm = plain.norm
    start = f"{name}." if name else ""
    return LayerReport(
        name=f"{start}conv",
        layer=type(block).__name__,
        converted=True,
        norm=None if norm is None else f"{start}norm",
        reason="",
        bias=False,
        affine=norm is not None and norm.affine,
        eps=0.0 if norm is None else norm.eps,
    )
