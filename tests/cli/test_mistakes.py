"""Every mistake at the keyboard ends in one readable message and an exit code, without a traceback."""

import pytest

from acnet_pl.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

PARSED = [
    (["fit", "--model.backbone", "ResNetCifa"], ["Known: ", "ResNetCifar", "did you mean ResNetCifar?"]),
    (["fit", "--model.conv", "ACBCon"], ["ACBConv, PlainConv", "did you mean ACBConv?"]),
    (["fit", "--model.conv", "ACBConv", "--model.conv.gamma_init", "large"], ["gamma_init", "float", "large"]),
    (["fit", "--model.conv", "ACBConv", "--model.conv.position", "centre"], ["position", "centre", "border"]),
    (["fit", "--model.schedule", "Cosine"], ["CosineSchedule", "StaircaseSchedule"]),
    (["fit", "--data", "CIFARData"], ["CIFARDataModule", "DigitsDataModule", "did you mean CIFARDataModule?"]),
    (["fit", "--trainer.max_epochs", "many"], ["--trainer.max_epochs", "int", "many"]),
    (["fit", "--model.backbone", "ResNetCifar", "--model.backbone.dept", "8"], ["dept", "not accepted"]),
    (["fit", "--no_such_option", "1"], ["no_such_option"]),
    (["fit", "--config", "no_such_file.yaml"], ["no_such_file.yaml"]),
    (["fuse"], ["checkpoint"]),
    (["fitt"], ["unknown command 'fitt'", "fit, validate"]),
]


@pytest.mark.parametrize(("args", "expected"), PARSED, ids=[" ".join(args) for args, _ in PARSED])
def test_mistakes_in_options(args, expected, capsys):
    assert main(args) == 2
    check(capsys.readouterr().err, expected)


RUN = [
    (["fit", "--model.backbone", "ResNetCifar", "--model.backbone.depth", "9"], ["depth", "9", "6n+2", "8"]),
    (["fit", "--data", "CIFARDataModule", "--data.root", "no/where"], ["no/where", "download: true"]),
    (["fit", "--data.batch_size", "5000"], ["batch_size", "5000", "1197"]),
    (["fit", "--data.image_size", "16"], ["32"]),  # Cifar-quick's head is made for 32×32
    (["test"], ["--ckpt_path"]),
    (["test", "--ckpt_path", "no/such.ckpt"], ["no/such.ckpt"]),
    (["fuse", "no/such.ckpt"], ["no/such.ckpt"]),
]


@pytest.mark.parametrize(("args", "expected"), RUN, ids=[" ".join(args) for args, _ in RUN])
def test_mistakes_that_show_when_it_runs(args, expected, capsys, tmp_path):
    if args[0] == "fit":
        args = [*args, "--runs_dir", str(tmp_path), "--wandb.mode", "disabled"]
    elif args[0] == "test":
        args = [*args, "--runs_dir", str(tmp_path)]
    assert main(args) == 1
    check(capsys.readouterr().err, expected)


def test_a_checkpoint_of_another_architecture(finished, tmp_path, capsys):
    checkpoint = str(finished / "checkpoints/last.ckpt")
    assert main(["test", "--ckpt_path", checkpoint, "--model.backbone", "VGG16", "--runs_dir", str(tmp_path)]) == 1
    check(capsys.readouterr().err, ["another network", "ResNetCifar(depth=8", "VGG16()"])


def test_a_checkpoint_for_another_number_of_classes(finished, tmp_path, capsys, cifar100_root):
    checkpoint = str(finished / "checkpoints/last.ckpt")
    args = ["test", "--ckpt_path", checkpoint, "--data", "CIFARDataModule", "--data.dataset", "cifar100"]
    args += ["--data.root", str(cifar100_root), "--data.verify", "false", "--runs_dir", str(tmp_path)]
    assert main(args) == 1
    check(capsys.readouterr().err, ["another architecture", "size mismatch"])


def test_a_run_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert main(["fit", "--runs_dir", str(tmp_path / "runs")]) == 1
    check(capsys.readouterr().err, ["cannot make the run folder", "--runs_dir"])


def test_debugging_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("ACNET_PL_DEBUG", "1")
    with pytest.raises(ValueError, match="6n\\+2"):
        main(["fit", "--model.backbone", "ResNetCifar", "--model.backbone.depth", "9", "--runs_dir", str(tmp_path)])


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch, tmp_path, small):
    def broken(self, images):
        raise RuntimeError("an assertion of ours")

    monkeypatch.setattr("acnet_pl.backbones.resnet_cifar.ResNetCifar.forward", broken)
    with pytest.raises(RuntimeError, match="an assertion of ours"):
        main(["fit", *small, "--runs_dir", str(tmp_path), "--wandb.mode", "disabled"])


def check(message, expected):
    assert "Traceback" not in message
    assert "error: " in message
    lines = message[message.index("error: ") :].strip().splitlines()
    assert len(lines) <= 12, message
    for text in expected:
        assert text in message, message
