from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.cli import main
from acnet_pl.cli.preparation import data_lines, prepare_alike, with_preparation_of_checkpoint
from acnet_pl.config.defaults import with_data_of_checkpoint
from acnet_pl.data import CIFARDataModule, DigitsDataModule, ImageFolderDataModule

RECIPE = "data:\n  class_path: acnet_pl.data.CIFARDataModule\n  init_args: {batch_size: 32}\n"


@pytest.fixture
def parsed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `fit --print_config` says of the data."""

    def data(*options: str) -> Any:
        assert main(["fit", *options, "--print_config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)["data"]

    return data


def test_a_short_name_is_known_to_a_process_that_has_imported_nothing() -> None:
    command = [sys.executable, "-m", "acnet_pl", "fit", "--data", "CIFARDataModule", "--print_config"]
    printed = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert printed["data"] == {
        "class_path": "acnet_pl.data.CIFARDataModule",
        "init_args": own_defaults(CIFARDataModule),
    }


def own_defaults(module: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(module).parameters.items()}


@pytest.mark.parametrize("way", ["short name", "equals sign", "recipe", "recipe with an option"])
def test_another_data_module_has_its_own_defaults(way: str, tmp_path: Path, parsed: Callable[..., Any]) -> None:
    """Padding, flipping and batch size of the digits, the default, are not left behind."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = {
        "short name": ["--data", "CIFARDataModule", "--data.batch_size", "32"],
        "equals sign": ["--data=acnet_pl.data.CIFARDataModule", "--data.batch_size=32"],
        "recipe": ["--config", str(tmp_path / "recipe.yaml")],
        "recipe with an option": [f"--config={tmp_path / 'recipe.yaml'}", "--data.dataset", "cifar10"],
    }[way]
    data = parsed(*options)
    assert data["class_path"] == "acnet_pl.data.CIFARDataModule"
    assert data["init_args"] == {**own_defaults(CIFARDataModule), "batch_size": 32}


def test_the_digits_are_there_where_nothing_is_said(tmp_path: Path, parsed: Callable[..., Any]) -> None:
    (tmp_path / "other.yaml").write_text("trainer:\n  max_epochs: 3\n")
    data = parsed("--config", str(tmp_path / "other.yaml"), "--data.image_size", "16")
    assert data["class_path"] == "acnet_pl.data.DigitsDataModule"
    assert data["init_args"] == {**own_defaults(DigitsDataModule), "image_size": 16}


def run_of(folder: Path, data: Any) -> Path:
    """A run's folder; the checkpoint in it is none."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_brings_the_data_of_its_run(command: str, tmp_path: Path, parsed: Callable[..., Any]) -> None:
    init_args = {"dataset": "cifar100", "root": "some/where", "val_size": 500}
    checkpoint = run_of(tmp_path, {"class_path": "acnet_pl.data.CIFARDataModule", "init_args": init_args})
    args = with_data_of_checkpoint([command, "--data.root", "else/where", f"--ckpt_path={checkpoint}"])
    assert args[0] == command
    data = parsed(args[1], "--data.root", "else/where")
    assert data["class_path"] == "acnet_pl.data.CIFARDataModule"
    assert data["init_args"] == {**own_defaults(CIFARDataModule), **init_args, "root": "else/where"}


def test_data_that_are_named_or_no_checkpoint_leave_the_command_as_it_is(tmp_path: Path) -> None:
    checkpoint = str(run_of(tmp_path, {"class_path": "acnet_pl.data.CIFARDataModule"}))
    for args in (
        ["test", "--ckpt_path", checkpoint, "--data", "DigitsDataModule"],
        ["test", "--ckpt_path", "no/such.ckpt"],
        ["fit", "--data.image_size", "8"],
    ):
        assert with_data_of_checkpoint(args) == args


def test_a_checkpoint_without_its_run_is_evaluated_on_no_other_data(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "moved.ckpt"
    path.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    assert main(["test", "--ckpt_path", str(path), "--runs_dir", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "no config.yaml lies above it" in said
    assert "give --data and its options" in said
    # A class of another package is not looked up: that would execute the package.
    (tmp_path / "config.yaml").write_text("data: {class_path: my_package.MyData}\n")
    with pytest.raises(ValueError, match=r"its run's data are my_package\.MyData.*give --data"):
        with_data_of_checkpoint(["test", "--ckpt_path", str(path)])


@pytest.mark.parametrize(
    ("named", "added"),
    [
        (["ImageFolderDataModule"], ["--data.image_size=8", "--data.resize=8"]),
        (["ImageFolderDataModule", "--data.resize", "12"], ["--data.image_size=8"]),
        (["ImageFolderDataModule", "--data.image_size", "8"], ["--data.resize=8"]),
        (["ImageFolderDataModule", "--data.image_size", "64"], []),  # whose shorter side is not that of 8 pixels
        (["DigitsDataModule"], ["--data.image_size=8"]),
        (["CIFARDataModule"], []),
        (["no_such_package.Data"], []),
    ],
    ids=" ".join,
)
def test_named_data_have_the_size_of_the_checkpoints_images(
    named: list[str], added: list[str], finished: Path, tmp_path: Path
) -> None:
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    for command in ("validate", "test", "predict"):
        args = [command, f"--ckpt_path={checkpoint}", "--data", *named]
        assert with_preparation_of_checkpoint(args) == [*args, *added]
    args = ["fit", f"--ckpt_path={checkpoint}", "--data", *named]
    assert with_preparation_of_checkpoint(args) == args
    (tmp_path / "recipe.yaml").write_text("data: {class_path: DigitsDataModule, init_args: {image_size: 16}}\n")
    args = ["test", f"--ckpt_path={checkpoint}", "--config", str(tmp_path / "recipe.yaml")]
    assert with_preparation_of_checkpoint(args) == args


def test_images_are_normalised_alike_and_other_differences_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    data = ImageFolderDataModule(tmp_path, image_size=16)
    about = {"image_shape": [3, 16, 16], "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "resize": 18, "exif": True}
    with caplog.at_level("INFO"):
        prepare_alike(about, data)
        assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
        prepare_alike({}, data)
        assert caplog.text == ""
        prepare_alike({**about, "image_shape": [3, 8, 8], "exif": False}, data)
    assert caplog.text.rstrip().endswith(
        "prepared otherwise than those that the network was trained on: shape 3×16×16 instead of 3×8×8, "
        "exif True instead of False"
    )


def test_the_line_on_the_data_shows_the_options_that_count(tmp_path: Path) -> None:
    init_args = {"root": "photos/", "val_size": 0.2, "exif": True}
    run = {"class_path": "acnet_pl.data.ImageFolderDataModule", "init_args": init_args}
    given = ["test", f"--ckpt_path={run_of(tmp_path, run)}", "--data.root", "new", "--data.init_args.val_size=1"]
    (line,) = data_lines(given, with_data_of_checkpoint(given))
    assert line == f"Data of {tmp_path / 'config.yaml'}: ImageFolderDataModule(exif=True, root=new, val_size=1)"
    named = [*given, "--data", "ImageFolderDataModule"]
    assert data_lines(named, [*named, "--data.image_size=8"]) == [
        "Data: ImageFolderDataModule(root=new, val_size=1, image_size=8)"
    ]
    assert data_lines(["fit", "--data", "DigitsDataModule"], ["fit", "--data", "DigitsDataModule"]) == []
