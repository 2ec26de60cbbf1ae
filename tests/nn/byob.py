"""timm's networks of blocks that re-parameterise themselves, with every kind of block and few repetitions of it."""

from __future__ import annotations

from dataclasses import replace

from timm.models.byobnet import ByoBlockCfg, ByobNet, model_cfgs
from torch import nn

MOST = 2
"""Repetitions of a block in a stage."""


def shallow(name: str, num_classes: int = 5) -> nn.Module:
    """RepVGG, MobileOne and their like, as ``timm.create_model`` builds them but for their depth."""
    stages = [[stage] if isinstance(stage, ByoBlockCfg) else stage for stage in model_cfgs[name].blocks]
    few = tuple(tuple(replace(block, d=min(block.d, MOST)) for block in stage[:MOST]) for stage in stages)
    net: nn.Module = ByobNet(replace(model_cfgs[name], blocks=few), num_classes=num_classes)
    return net
