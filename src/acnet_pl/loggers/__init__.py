"""Loggers of a run, and functions that show numbers, tables, pictures and files in any of them."""

from acnet_pl.loggers.metrics_csv import MetricsCSV
from acnet_pl.loggers.show import log_figure, log_file, log_scalars, log_table
from acnet_pl.loggers.wandb import RunWandbLogger

__all__ = ["MetricsCSV", "RunWandbLogger", "log_figure", "log_file", "log_scalars", "log_table"]
