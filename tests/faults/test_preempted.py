"""A run that SIGTERM stopped and that went on is one run of Weights & Biases, with every row once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.wandb_log import history, records


def test_a_preempted_run_is_one_run_of_weights_and_biases(mortal: Any, undisturbed: Any, tmp_path: Path) -> None:
    options = ("--wandb.mode", "offline")
    output, _ = mortal.run(tmp_path, *options, death=["told", "acnet_pl.modules:ImageClassifier.training_step", 13])
    assert "Stopped by SIGTERM" in output
    output, _ = mortal.run(tmp_path, *options)
    assert "from last.ckpt" in output
    expected, _ = undisturbed
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    assert type(expected)(run).fused == expected.fused

    folders = sorted((run / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    first, second = map(records, folders)
    (id_of_first,), (id_of_second,) = ({r.run.run_id for r in sent if r.run.run_id} for sent in (first, second))
    assert id_of_first == id_of_second
    assert [r.exit.exit_code for r in first + second if r.HasField("exit")] == [143, 0]
    assert [any(r.HasField("preempting") for r in sent) for sent in (first, second)] == [True, False]
    assert [row["trainer/global_step"] for row in history(first + second) if "train/loss" in row] == list(
        range(1, 33, 2)
    )
