"""What a figure was made with: versions and hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["EVALUATED", "device_name", "processor", "versions"]

EVALUATED = "test figures and rotations in float32, rotations of the fused network"
"""What a summary says of its accuracies; older ones, without it, have them in the precision of the training."""


def device_name() -> str:
    """The accelerator, or else the processor with the cores and threads that this process has of it."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return torch.cuda.get_device_name() + (f" × {count}" if count > 1 else "")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"{processor()}, {cores} cores, {torch.get_num_threads()} threads"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of what a result depends on, of further ``packages``, and the hardware.

    A package that was not installed by a package manager has the version "unknown".
    """
    names = ("acnet-pl", "torch", "torchvision", "pytorch-lightning", *packages)
    return {"python": platform.python_version(), **{name: _version(name) for name in names}, "device": device_name()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def processor() -> str:
    """The processor's model, where the system tells, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
