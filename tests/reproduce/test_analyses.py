from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reproduce.conftest import Fabricate

from acnet_pl.analysis import pruning_curve
from acnet_pl.backbones import ResNetCifar
from acnet_pl.deploy import save_fused
from acnet_pl.modules.architecture import describe
from acnet_pl.nn import PlainConv, fuse_model
from acnet_pl.reproduce import pruning
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_pruned_networks_are_evaluated_in_float32(
    precision: str, tmp_path: Path, parser: SettingsParser, fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ("--trainer.precision", precision, "--data.image_size", "8")
    options = Options(("digits",), ("resnet8",), ("plain",), (0,), runs_dir=tmp_path, fit=fit)
    ((_, (planned,)),) = make_plan(options, parser).values()
    folder = fabricate(planned, top1=0.9)
    network = fuse_model(ResNetCifar(PlainConv(), 10, depth=8).eval())
    parts = {"backbone": describe(partial(ResNetCifar, depth=8)), "conv": describe(PlainConv())}
    save_fused(network, folder / "fused.safetensors", {**parts, "num_classes": 10})

    seen = []

    def watched(model: torch.nn.Module, batches: Any, where: Any, *_: object) -> Any:
        seen.append(model(next(iter(batches))[0]).dtype)
        return pruning_curve(model, batches, where, [0.0], range(1), progress=False)

    monkeypatch.setattr(pruning, "pruning_curve", watched)
    curves = pruning.compute_pruning(planned, folder, 1)
    assert seen == [torch.float32] * len(curves) == [torch.float32] * 3
