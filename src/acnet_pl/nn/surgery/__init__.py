"""Convert whole networks: to their ACNet, to the fused network, and back to the stock model.

| file | holds |
| --- | --- |
| convert.py | `convert` with a builder of blocks, and `convert_to_acnet` |
| eligibility.py, plain.py | which layers may be replaced |
| inherit.py | what a block takes over from the layers it replaces |
| report.py | `conversion_report` |
| fuse.py | `fuse_model` and `fuse_report` |
| plan.py, affine.py | where each batch norm goes, and how a layer takes it over |
| fuse_report.py, tables.py | what is said about that, and how it is shown |
| units.py | timm's modules that re-parameterise themselves |
| stock.py, absorb.py | `stock_state_dict`, and where biases go that the stock model has no place for |
| checking.py | whether a network's code does the same with other layers in it |
| late.py | fusing while training goes on: `fuse_block` and what goes with it |
| ties.py | tensors that several modules share |
| copying.py | copies to keep and copies to evaluate at will |
| replacing.py, hooks.py | modules in the places of others; what hooks look at |
| dataflow.py, neighbours.py | which layers a batch norm has to itself, from the traces of |
| decisions.py | what other courses the code of a network may take |
| touching.py | layers that are read or set, not called |
| tracing.py, reading.py, running.py, trace.py | torch.fx and an example input |
"""

from acnet_pl.nn.surgery.convert import convert, convert_to_acnet, convert_with
from acnet_pl.nn.surgery.fuse import fuse_model, fuse_report
from acnet_pl.nn.surgery.fuse_report import FuseReport, NormReport
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, conversion_report
from acnet_pl.nn.surgery.stock import stock_state_dict

__all__ = [
    "ConversionReport",
    "FuseReport",
    "LayerReport",
    "NormReport",
    "conversion_report",
    "convert",
    "convert_to_acnet",
    "convert_with",
    "fuse_model",
    "fuse_report",
    "stock_state_dict",
]
