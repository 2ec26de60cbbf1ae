"""Versions and hardware that a result was made with."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["EVALUATED", "device_name", "package_version", "processor", "versions"]

EVALUATED = "test figures and rotations in float32, rotations of the fused network"
"""Entry of a summary on the precision of its accuracies; without it, they are in the precision of the training."""


def device_name() -> str:
    """Return the accelerator, or the processor with its cores and threads."""
    import torch  # which takes seconds, and a version needs none

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return torch.cuda.get_device_name() + (f" × {count}" if count > 1 else "")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"{processor()}, {cores} cores, {torch.get_num_threads()} threads"


def package_version(name: str) -> str:
    """Return the version of a package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        text = project.read_text(encoding="utf-8") if name == "acnet-pl" and project.is_file() else ""
        declared = re.search(r'^version = "(.+)"', text, re.MULTILINE)
        return f"{declared[1]} (source tree, not installed)" if declared else "not installed"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of all packages that a result depends on, and the hardware."""
    names = ("acnet-pl", "torch", "torchvision", "pytorch-lightning", *packages)
    known = {name: package_version(name) for name in names}
    return {"python": platform.python_version(), **known, "device": device_name()}


def processor() -> str:
    """Return the processor's model if the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
