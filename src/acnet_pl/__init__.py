"""ACNet in PyTorch Lightning: train with asymmetric convolution blocks, fuse them exactly, deploy the plain network.

- Any CNN of yours: `convert_to_acnet`, then train, then `fuse_model` or `stock_state_dict`; `compare` holds the fused
  network to the trained one.
- A network written for a conv builder (`ACBConv`, `PlainConv`): `ImageClassifier`, or a LightningModule of your own.
- `acnet_pl.backbones` and `acnet_pl.data`: the article's networks, and data modules.
- `acnet_pl.callbacks`: fuse at the end, check that fusing is exact, test rotations, on any LightningModule.
- `acnet_pl.analysis`: accuracy, cost, kernels, pruning. `save_fused` and `load_fused`: files of fused networks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acnet_pl import analysis, backbones, callbacks, data, loggers, modules, nn
    from acnet_pl.analysis import compare
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
        fuse_report,
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
        "fuse_report",
        "keep_fused",
        "stock_state_dict",
    ),
    "acnet_pl.analysis": ("compare",),
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
    "__version__",
    "analysis",
    "backbones",
    "callbacks",
    "compare",
    "conversion_report",
    "convert",
    "convert_to_acnet",
    "data",
    "explicit_branches",
    "export_model",
    "fuse_model",
    "fuse_report",
    "fused_info",
    "keep_fused",
    "load_fused",
    "loggers",
    "modules",
    "nn",
    "save_fused",
    "stock_state_dict",
]


_PARTS = ("analysis", "backbones", "callbacks", "data", "loggers", "modules", "nn")
__version__: str


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"acnet_pl.{name}")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("acnet-pl")
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'acnet_pl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
