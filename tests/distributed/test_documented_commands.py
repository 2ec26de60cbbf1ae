"""Every command and every group of options in docs/scaling.md is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from acnet_pl.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
CODE = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", PAGE)]
COMMANDS = [code.partition("-m acnet_pl fit ... ")[2] for code in CODE if "-m acnet_pl fit ... " in code]
OPTIONS = [code for code in CODE if re.match(r"--(trainer|model|data)\.\S+ \S", code)]


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 4
    assert len(OPTIONS) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [*COMMANDS, *OPTIONS])
def test_options_are_understood(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *shlex.split(options), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    if "--trainer.devices" in options:
        nodes = 8 if "num_nodes" in options else 1
        assert (config["trainer"]["devices"], config["trainer"]["num_nodes"]) == ("8", nodes)
    if "warmup" in options:
        assert config["model"]["schedule"]["init_args"]["warmup_epochs"] == 5
    if "ddp_comm_hook" in options:
        assert config["trainer"]["strategy"]["init_args"]["ddp_comm_hook"].endswith("bf16_compress_hook")
