"""What `fit`, `validate`, `test`, `predict` and `fuse` leave behind."""

import csv
import json
import shutil

import pytest
import torch
import yaml

import acnet_pl
from acnet_pl.cli import main
from acnet_pl.data import DigitsDataModule

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises; its warnings are not under test here


def test_a_run_keeps_everything_in_a_folder_of_its_own(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if "wandb" not in path.parts}
    assert {"config.yaml", "metrics.csv", "fused.safetensors", "summary.json", "checkpoints/last.ckpt"} <= names
    assert (finished / "wandb").is_dir()


def test_the_summary_holds_the_figures_of_the_fused_file(finished):
    summary = json.loads((finished / "summary.json").read_text())
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    network = acnet_pl.load_fused(finished / "fused.safetensors")
    images, labels = data.normalize(data.test_set.images), data.test_set.labels
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).double().mean().item()
        flipped = (network(images.flip(-2)).argmax(1) == labels).double().mean().item()
    assert summary["rotation"]["original/top1"] == pytest.approx(accuracy, abs=0.004)
    assert summary["rotation"]["flip_up_down/top1"] == pytest.approx(flipped, abs=0.004)
    assert summary["metrics"]["test/top1"] == pytest.approx(accuracy, abs=0.004)
    assert summary["equivalence"]["max_rel_difference"] < 1e-5
    assert summary["equivalence"]["samples"] == 300
    assert summary["fused"]["parameters_trained"] > summary["fused"]["parameters_fused"]
    assert summary["versions"]["torch"] in torch.__version__
    assert summary["seconds_per_epoch"] > 0


def test_the_configuration_is_whole_and_runs_again(finished, tmp_path):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["conv"]["class_path"].endswith("ACBConv")
    assert config["data"]["init_args"]["image_size"] == 8
    again = ["--runs_dir", str(tmp_path), "--name", "again", "--wandb.mode", "disabled"]
    assert main(["fit", "--config", str(finished / "config.yaml"), *again]) == 0
    (folder,) = (tmp_path / "again").iterdir()
    first, second = (json.loads((path / "summary.json").read_text()) for path in (finished, folder))
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize("name", ["small", None])
def test_a_run_that_was_copied_keeps_its_name(finished, tmp_path, name, capsys):
    folder = tmp_path / "elsewhere" / "copied"
    shutil.copytree(finished, folder)
    (folder / "UNFINISHED").touch()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "name": name}))
    assert main(["fit", "--resume", str(folder), "--wandb.mode", "disabled"]) == 0
    text = capsys.readouterr().out
    heading = text[text.index("Result") :].splitlines()[2]
    assert [cell.strip() for cell in heading.split("┃")[2:-1]] == [name or "ResNetCifar-8-projection-ACBConv"]


def test_metrics_of_every_epoch_are_in_the_csv(finished):
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    epochs = [row["epoch"] for row in rows if row.get("val/top1") and row.get("equivalence/top1_agreement")]
    assert epochs[:2] == ["0", "1"]
    assert any(row.get("train/top1") for row in rows)
    assert any(row.get("lr") for row in rows)
    assert any(row.get("rotation/rotate_90/top1") for row in rows)
    assert any(row.get("fused/macs_fused") for row in rows)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_evaluated_as_the_run_was(finished, tmp_path, command, capsys):
    code = main([command, "--ckpt_path", str(finished / "checkpoints/last.ckpt"),
                 "--runs_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert code == 0
    summary = json.loads((finished / "summary.json").read_text())
    (folder,) = (tmp_path / "ResNetCifar-8-projection-ACBConv").iterdir()
    assert folder.name.endswith(f"-{command}")
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = {"validate": "val/top1", "test": "test/top1"}[command]
    assert float(rows[-1][key]) == pytest.approx(summary["metrics"][key])
    assert f"Files in {folder}" in capsys.readouterr().out


def test_predictions_are_those_of_the_network(finished, tmp_path):
    code = main(["predict", "--ckpt_path", str(finished / "checkpoints/last.ckpt"),
                 "--runs_dir", str(tmp_path), "--name", "p", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert code == 0
    (folder,) = (tmp_path / "p").iterdir()
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    with torch.no_grad():
        network = acnet_pl.load_fused(finished / "fused.safetensors")
        expected = network(data.normalize(data.test_set.images)).softmax(1)
    assert [int(row["index"]) for row in rows] == list(range(300))
    got = torch.tensor([[float(row[f"p({i})"]) for i in range(10)] for row in rows])
    assert torch.allclose(got, expected, atol=1e-4)
    assert [int(row["predicted"]) for row in rows] == got.argmax(1).tolist()


def test_fuse_writes_what_the_run_fused(finished, tmp_path, capsys):
    path = tmp_path / "again.safetensors"
    assert main(["fuse", str(finished / "checkpoints/last.ckpt"), "--output", str(path), "--image_size", "8"]) == 0
    assert "top-1 agreement 100.00%" in capsys.readouterr().out
    first, second = (acnet_pl.load_fused(p).state_dict() for p in (finished / "fused.safetensors", path))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_plain_and_acnet_of_one_command_line_differ_in_the_conv_alone(finished, tmp_path, small):
    assert main(["fit", *small, "--model.conv", "PlainConv", "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path),
                 "--wandb.mode", "disabled"]) == 0  # fmt: skip
    (folder,) = (tmp_path / "ResNetCifar-8-projection-PlainConv").iterdir()
    plain, acnet = (yaml.safe_load((path / "config.yaml").read_text()) for path in (folder, finished))
    assert {key for key in plain["model"] if plain["model"][key] != acnet["model"][key]} == {"conv"}
    assert plain["data"] == acnet["data"]
    assert not (folder / "wandb").exists()


def test_without_a_seed_option_the_run_is_reproducible(tmp_path, small):
    weights = []
    for name in ("a", "b"):
        assert main(["fit", *small, "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path), "--name", name,
                     "--wandb.mode", "disabled", "--test_after_fit", "false"]) == 0  # fmt: skip
        (folder,) = (tmp_path / name).iterdir()
        weights.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_tensorboard_logs_into_the_run_folder(tmp_path, small):
    assert main(["fit", *small, "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path), "--name", "t",
                 "--trainer.logger", "TensorBoardLogger"]) == 0  # fmt: skip
    (folder,) = (tmp_path / "t").iterdir()
    names = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    assert {"config.yaml", "metrics.csv", "fused.safetensors", "summary.json", "checkpoints", "pictures"} <= names
    assert "wandb" not in names
    assert any(name.startswith("events.out") for name in names)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["folder"] == str(folder)
    assert summary["fused"]["path"] == str(folder / "fused.safetensors")


def test_a_logger_that_is_not_installed(tmp_path, small, monkeypatch, capsys):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
    assert main(["fit", *small, "--runs_dir", str(tmp_path), "--trainer.logger", "TensorBoardLogger"]) == 1
    assert "run pip install 'acnet-pl[tensorboard]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
