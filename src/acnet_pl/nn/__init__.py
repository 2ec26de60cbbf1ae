"""Blocks, the algebra that fuses them, conv builders, and surgery on whole networks. Imports only torch."""

from acnet_pl.nn.acb import ACBlock
from acnet_pl.nn.acb_plus import ACBPlusBlock, ACBPlusConv
from acnet_pl.nn.conv import ACBConv, BlockConv, ConvBuilder, ConvNorm, PlainConv
from acnet_pl.nn.dbb import DBBConv, DBBlock
from acnet_pl.nn.draw import KernelDraw, draw_kernel
from acnet_pl.nn.explicit import explicit_branches
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.keep import keep_fused
from acnet_pl.nn.mobileone import MobileOneBlock, MobileOneConv
from acnet_pl.nn.orepa import OREPABlock, OREPAConv
from acnet_pl.nn.repvgg import RepVGGBlock, RepVGGConv
from acnet_pl.nn.surgery import (
    conversion_report,
    convert,
    convert_to_acnet,
    convert_with,
    fuse_model,
    fuse_report,
    stock_state_dict,
)

__all__ = [
    "ACBConv",
    "ACBPlusBlock",
    "ACBPlusConv",
    "ACBlock",
    "BlockConv",
    "ConvBuilder",
    "ConvNorm",
    "DBBConv",
    "DBBlock",
    "FusibleConv",
    "FusionError",
    "KernelDraw",
    "MobileOneBlock",
    "MobileOneConv",
    "OREPABlock",
    "OREPAConv",
    "PlainConv",
    "RepVGGBlock",
    "RepVGGConv",
    "conversion_report",
    "convert",
    "convert_to_acnet",
    "convert_with",
    "draw_kernel",
    "explicit_branches",
    "fuse_model",
    "fuse_report",
    "keep_fused",
    "stock_state_dict",
]
