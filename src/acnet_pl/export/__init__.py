"""Deployment: fused networks as files for other runtimes, each verified before it is kept.

| file | holds |
| --- | --- |
| exporting.py | `export_model` |
| errors.py | `ExportError` |
| capturing.py | torch's exporters without their messages, and an error for code that depends on data |
| formats.py | how each format is written and read back |
| stock.py | `stock_weights`: what the architecture without blocks loads |
| verification.py | whether two models compute the same |
"""

from acnet_pl.export.errors import ExportError
from acnet_pl.export.exporting import FORMATS, Export, export_model
from acnet_pl.export.stock import stock_weights
from acnet_pl.export.verification import Verification

__all__ = ["FORMATS", "Export", "ExportError", "Verification", "export_model", "stock_weights"]
