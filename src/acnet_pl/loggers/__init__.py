"""Loggers of a run, and one way to show numbers, tables, pictures and files in whichever a trainer has."""

from acnet_pl.loggers.metrics_csv import MetricsCSV
from acnet_pl.loggers.show import log_figure, log_file, log_scalars, log_table
from acnet_pl.loggers.wandb import RunWandbLogger

__all__ = ["MetricsCSV", "RunWandbLogger", "log_figure", "log_file", "log_scalars", "log_table"]
