"""Analyses of trained networks for a report, one module each, with an `ANALYSIS`."""
