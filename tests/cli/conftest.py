"""One run of `fit` that many tests look at."""

import pytest
from tests.process_server import empty_pictures

from acnet_pl.cli import main

SMALL = [
    "--model.backbone", "ResNetCifar", "--model.backbone.depth", "8",
    "--data.image_size", "8", "--data.batch_size", "256",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.log_every_n_steps", "2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _pictures_without_content(monkeypatch):
    """What they show is tested elsewhere; the run `finished` draws them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", empty_pictures())


@pytest.fixture(scope="session")
def small():
    """Options of a run that takes a second."""
    return list(SMALL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of two epochs."""
    import warnings

    runs = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(["fit", *SMALL, "--trainer.max_epochs", "2", "--runs_dir", str(runs), "--name", "small",
                     "--wandb.tags+", "a-tag"])  # fmt: skip
    assert code == 0
    (folder,) = (runs / "small").iterdir()
    return folder
