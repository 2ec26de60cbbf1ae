"""Configuration files: the YAML that ``--config`` names, and the ``config.yaml`` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["CONFIG", "EXPERIMENTS", "content_of", "run_config"]

CONFIG = "config.yaml"
"""Name of the file in a run's folder that holds its whole configuration."""

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
"""The recipes: the repository's experiments/, which an installed package carries along."""


def content_of(file: str | Path) -> dict[str, Any]:
    """Return what a configuration says; nothing where it cannot be read, which the parser reports."""
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def run_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a run's folder; nothing where it is missing or damaged."""
    return content_of(folder / CONFIG)
