"""ACNet in PyTorch Lightning: train with asymmetric convolution blocks, fold them exactly, deploy the plain network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acnet_pl.deploy import fused_info, load_fused, save_fused
    from acnet_pl.export import export_model
    from acnet_pl.modules import ImageClassifier
    from acnet_pl.nn import (
        ACBConv,
        ACBlock,
        ACBPlusConv,
        ConvBuilder,
        DBBConv,
        FusibleConv,
        FusionError,
        MobileOneConv,
        OREPAConv,
        PlainConv,
        RepVGGConv,
        conversion_report,
        convert,
        convert_to_acnet,
        explicit_branches,
        fuse_model,
        keep_fused,
        stock_state_dict,
    )

# Loaded on first use: importing acnet_pl alone is to cost nothing.
_HOMES = {
    "acnet_pl.nn": (
        "ACBConv",
        "ACBPlusConv",
        "ACBlock",
        "ConvBuilder",
        "DBBConv",
        "FusibleConv",
        "FusionError",
        "MobileOneConv",
        "OREPAConv",
        "PlainConv",
        "RepVGGConv",
        "conversion_report",
        "convert",
        "convert_to_acnet",
        "explicit_branches",
        "fuse_model",
        "keep_fused",
        "stock_state_dict",
    ),
    "acnet_pl.modules": ("ImageClassifier",),
    "acnet_pl.deploy": ("fused_info", "load_fused", "save_fused"),
    "acnet_pl.export": ("export_model",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ACBConv",
    "ACBPlusConv",
    "ACBlock",
    "ConvBuilder",
    "DBBConv",
    "FusibleConv",
    "FusionError",
    "ImageClassifier",
    "MobileOneConv",
    "OREPAConv",
    "PlainConv",
    "RepVGGConv",
    "conversion_report",
    "convert",
    "convert_to_acnet",
    "explicit_branches",
    "export_model",
    "fuse_model",
    "fused_info",
    "keep_fused",
    "load_fused",
    "save_fused",
    "stock_state_dict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'acnet_pl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
