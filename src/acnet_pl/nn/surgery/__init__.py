"""Convert whole networks: to their ACNet, to the fused network, and back to the stock model.

| file | contents |
| --- | --- |
| convert.py | `convert` with a builder of blocks, and `convert_to_acnet` |
| eligibility.py, plain.py | which layers may be replaced |
| inherit.py | what a block takes from the layers it replaces |
| report.py | `conversion_report` |
| fuse.py | `fuse_model` and `fuse_report` |
| plan.py, affine.py | which layers each batch norm is fused into, and how |
| fuse_report.py, tables.py | the report of that, and its tables |
| units.py | timm's modules that re-parameterise themselves |
| stock.py, carried_biases.py | `stock_state_dict`, and biases that the stock model has no place for |
| checking.py | whether a network's code behaves the same after layers are replaced |
| late.py | fusing during training: `fuse_block` and its statistics and momentum |
| ties.py | tensors that several modules share |
| copying.py | copies of networks |
| replacing.py, hooks.py | replacing modules; what hooks look at |
| dataflow.py, neighbours.py | the layers before and after each batch norm, as traces show them |
| decisions.py, bytecode.py, functions.py | other paths that the code of a network may take |
| handlers.py | functions that a value passes between layers, and whether their other paths are traced |
| touching.py | layers that are read or changed without being called |
| tracing.py, networks.py, reading.py, running.py, trace.py, alive.py | traces, by torch.fx or from an example input |
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
