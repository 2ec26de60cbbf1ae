"""Mistakes that are found before torch is imported: the messages, and that nothing right is refused."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.checks import check_run
from acnet_pl.config.defaults import with_checkpoint
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import EXPERIMENTS, check_output, with_recipes

FILES = {
    "anchors.yaml": "wandb: &mine {group: a}\n<<: {wandb: *mine}\n",
    "quickstart.yaml": "data: {class_path: acnet_pl.data.DigitsDataModule, init_args: {batch_size: 128}}\n",
    "key.yaml": "modle:\n  backbone: VGG16\n",
    "deep.yaml": "model:\n  backbone: {class_path: acnet_pl.backbones.ResNetCifar, init_args: {dept: 8}}\n",
    "tab.yaml": "model:\n\tbackbone: VGG16\n",
    "bracket.yaml": "data:\n  init_args: {batch_size: 32\n",
    "twice.yaml": "model:\n  backbone: VGG16\ntrainer: {max_epochs: 3}\nmodel: {conv: ACBConv}\n",
    "below.yaml": "trainer:\n  callbacks:\n  - class_path: Timer\n    class_path: EarlyStopping\n",
    "list.yaml": "- 1\n",
    "number.yaml": "model: 3\n",
    "outside.yaml": "name: ../a\n",
    "gone.yaml": "data: {class_path: ImageFolderDataModule, init_args: {root: no/where}}\n",
    "empty.yaml": "# nothing\n",
    "stopping.yaml": "trainer: {callbacks: [Timer, {class_path: EarlyStopping, init_args: {mode: max}}]}\n",
    "aliases.yaml": "a: &a [x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join(9 * [f'*{m}'])}]\n" for m, n in pairwise("abcdefg")),
    "itself.yaml": "model: &model {conv: *model}\n",
    "long.yaml": "seed_everything: " + ":".join(3000 * ["59"]),
    "null.yaml": 'runs_dir: "a\\0b"\n',
    "bell.yaml": 'name: "a\\ab"\n',
    "accumulate.yaml": "trainer: {accumulate_grad_batches: 0}\n",
    "infinite.yaml": "model: {optimizer: {class_path: SGD, init_args: {momentum: .inf}}}\n",
    "value.yaml": "trainer:\n  max_epochs: many\n",
}
WRONG = [
    ("--data.batchsize 32", ["--data.batchsize: DigitsDataModule", "did you mean --data.batch_size?"]),
    ("--data.init_args.batchsize 32", ["--data.init_args.batchsize", "did you mean --data.batch_size?"]),
    ("--lr 0.1", ["--lr: ", "did you mean --model.optimizer.lr?"]),
    ("--epochs 3", ["--epochs: ", "did you mean --trainer.max_epochs?"]),
    ("--gpus 2", ["did you mean --trainer.devices?"]),
    ("--learning-rate 2", ["--learning-rate: ", "did you mean --model.optimizer.lr?"]),
    ("--trainer.max_epoch 3", ["did you mean --trainer.max_epochs?"]),
    ("--no_such_option 1", ["--no_such_option: there is no such option", "--help all"]),
    ("resnet", ["'resnet' is not part of an option"]),
    ("--trainer.max_epochs", ["--trainer.max_epochs needs a value: an int"]),
    ("--seed_everything -5", ["--seed_everything: expected a seed from 0 to 4294967295, true or false, got -5"]),
    ("--trainer.max_epochs many", ["--trainer.max_epochs: expected an int or null, got 'many'"]),
    ("--data.batch_size=1.5", ["--data.batch_size: expected an int, got '1.5'"]),
    ("--model.compile maybe", ["--model.compile: expected true or false, got 'maybe'"]),
    ("--trainer.precision bf16-mixd", ["--trainer.precision: expected one of 64, ", "did you mean bf16-mixed?"]),
    ("--model.conv.position centre", ["--model.conv.position: expected one of skeleton, border, got 'centre'"]),
    ("--model.backbone ResNetCifa", ["known are AlexNet", "did you mean ResNetCifar?"]),
    ("--data CIFAR10", ["there is no such data module", "did you mean CIFARDataModule?"]),
    ("--model.backbone ReLU", ["there is no such backbone", "ResNetCifar"]),
    ("--model.backbone acnet_pl.backbones.VGG17", ["did you mean VGG16?"]),
    ("--model.backbone ResNetCifar --model.backbone.dept 8", ["ResNetCifar has no", "--model.backbone.depth?"]),
    ("--model.optimizer Adamm", ["there is no such optimizer", "did you mean Adam?"]),
    ("--model.schedule Cosine", ["did you mean CosineSchedule?"]),
    ("--model.schedule StaircaseSchedule", ["StaircaseSchedule needs milestones", "--model.schedule.milestones"]),
    ("--config aliases.yaml", ["aliases.yaml, line 6: its aliases stand for more than 100,000 values"]),
    ("--config itself.yaml", ["itself.yaml, line 1: an alias stands for what it is in"]),
    ("--config long.yaml", ["long.yaml, line 1: seed_everything is a number of 8999 characters"]),
    ("--config null.yaml", ["null.yaml: runs_dir: 'a\\x00b' contains the control character '\\x00'"]),
    ("--config bell.yaml", ["bell.yaml: name: 'a\\x07b' contains the control character '\\x07'"]),
    ("--name a\0b", ["--name: 'a\\x00b' contains the control character '\\x00'"]),
    ("--config quickstar.yaml", ["--config quickstar.yaml: there is no such file", "did you mean quickstart.yaml?"]),
    ("--config key.yaml", ["key.yaml: modle: there is no such setting; did you mean model?"]),
    (
        "--config deep.yaml",
        ["deep.yaml: model.backbone.init_args.dept: ResNetCifar", "model.backbone.depth?"],
    ),
    ("--config tab.yaml", ["tab.yaml, line 2: the line is indented with a tab"]),
    ("--config bracket.yaml", ["bracket.yaml, line 3: "]),
    ("--config twice.yaml", ["twice.yaml, line 4: model is given in line 1 already; keep one of the two"]),
    ("--config below.yaml", ["below.yaml, line 4: trainer.callbacks.0.class_path is given in line 3 already"]),
    ('--config={"trainer":{},"trainer":{}}', ["--config, line 1: trainer is given"]),
    ('--model.conv={"class_path":1,"class_path":2}', ["--model.conv: class_path is given in line 1"]),
    ("--config list.yaml", ["list.yaml: expected options and their values", "got [1]"]),
    ("--config value.yaml", ["value.yaml: trainer.max_epochs: expected an int or null, got 'many'"]),
    ("--config .", ["--config . is a folder"]),
    ("--data CIFARDataModule --data.root no/where", ["--data.root no/where: there is no such folder", "download true"]),
    ("--config gone.yaml", ["root no/where: there is no such folder; give the folder", "with --data.root"]),
    ("--ckpt_path no/such.ckpt", ["--ckpt_path no/such.ckpt: there is no such file"]),
    ("--config number.yaml", ["number.yaml: model: expected options and their values", "got 3"]),
    ("--name ..", ["--name ..: ", "leaves --runs_dir"]),
    ("--name a/../../b", ["--name a/../../b: ", "leaves --runs_dir"]),
    ("--name /elsewhere", ["leaves --runs_dir"]),
    ("--name .", ["leaves --runs_dir"]),
    ("--config outside.yaml", ["outside.yaml: name ../a: ", "leaves --runs_dir"]),
    ("--trainer.callbacks+ EarlyStopping", ["EarlyStopping needs monitor; give it with --trainer.callbacks.monitor"]),
    (
        "--config stopping.yaml",
        ["stopping.yaml: trainer.callbacks: EarlyStopping needs monitor; give it with init_args"],
    ),
    ("--trainer.accumulate_grad_batches 0", ["--trainer.accumulate_grad_batches must be at least 1, got 0; 1 takes"]),
    ("--trainer.accumulate_grad_batches=-1", ["must be at least 1, got -1"]),
    ("--config accumulate.yaml", ["accumulate.yaml: trainer.accumulate_grad_batches must be at least 1, got 0"]),
    ("--trainer.gradient_clip_val -0.5", ["--trainer.gradient_clip_val must be at least 0, got -0.5; null clips no"]),
    ("--trainer.gradient_clip_val nan", ["--trainer.gradient_clip_val must be at least 0, got nan"]),
    ("--trainer.check_val_every_n_epoch 0", ["--trainer.check_val_every_n_epoch must be at least 1, got 0"]),
    ("--trainer.log_every_n_steps -2", ["--trainer.log_every_n_steps must be at least 0, got -2"]),
    ("--trainer.num_sanity_val_steps -2", ["--trainer.num_sanity_val_steps must be at least -1, got -2"]),
    ("--trainer.val_check_interval 0", ["--trainer.val_check_interval must be more than 0, got 0"]),
    ("--model.optimizer.lr nan", ["--model.optimizer.lr: expected a finite number, got nan"]),
    ("--model.optimizer.init_args.lr=-.inf", ["--model.optimizer.init_args.lr: expected a finite number, got -.inf"]),
    ("--config infinite.yaml", ["model.optimizer.init_args.momentum: expected a finite number, got inf"]),
    ("--model.optimizer Adam --model.optimizer.eps 1e999", ["--model.optimizer.eps: expected a finite number"]),
    ("--model.schedule StepLR --model.schedule.step_size 1 --model.schedule.gamma inf", ["gamma: expected a finite"]),
    ("--model.bias_lr_multiplier nan", ["--model.bias_lr_multiplier: expected a finite number, got nan"]),
    ("--model.optimizer.lr large", ["--model.optimizer.lr: expected a float, got 'large'"]),
    ("--resume no/such", ["--resume no/such: there is no such folder"]),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "expected"), WRONG, ids=[line for line, _ in WRONG])
def test_the_message_names_what_was_typed_and_the_way_out(line: str, expected: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        check_run(["fit", *line.split()])
    message = str(caught.value)
    assert all(part in message for part in expected), message
    assert not any(noise in message for noise in ("Union", "Namespace", "<class", "typing.", "<unicode string>"))


RIGHT = [
    "",
    "--print_config",
    "--print_config=skip_null",
    "--seed_everything 7",
    "--trainer.gradient_clip_val 0 --trainer.log_every_n_steps 0 --trainer.num_sanity_val_steps -1",
    "--trainer.val_check_interval 00:01:00:00 --trainer.check_val_every_n_epoch null",
    "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor val/top1",
    "--trainer.logger CSVLogger --trainer.logger.save_dir logs",
    "--trainer.strategy ddp --trainer.devices [0,1]",
    "--trainer.limit_train_batches 0.5 --trainer.max_epochs 1_0 --trainer.max_steps 1e3",
    "--trainer.fast_dev_run true --trainer.gradient_clip_val null",
    "--model.backbone my_package.Net --model.backbone.width 3",
    "--model.backbone torchvision.models.resnet18",
    '--model.backbone {"class_path":"ResNetCifar","init_args":{"depth":8}} --model.backbone.shortcut identity',
    "--model.optimizer torch.optim.AdamW --model.optimizer.betas [0.9,0.99]",
    "--model.optimizer.init_args.lr .5 --model.optimizer.lr 5e-1",
    "--model.schedule StepLR --model.schedule.step_size 3",
    "--model.schedule pytorch_lightning.cli.ReduceLROnPlateau --model.schedule.monitor val/loss",
    "--data CIFARDataModule --data.root no/where --data.download true",
    "--data ImageNetDataModule --data.root s3://bucket/shards",
    "--ckpt_path last",
    "--config quickstart.yaml --wandb.tags+ a",
    '--config={"trainer":{"max_epochs":3}}',
    "--config anchors.yaml",
    "--config empty.yaml --name sweeps/first",
    "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss --trainer.callbacks+ Timer",
    '--trainer.callbacks+={"class_path":"EarlyStopping","init_args":{"monitor":"val/loss"}}',
]


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_right_or_unknown_passes(line: str) -> None:
    check_run(["fit", *line.split()])


@pytest.mark.parametrize("recipe", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_pass(recipe: Path) -> None:
    under = ["--config", str(EXPERIMENTS / "cifar10/resnet56.yaml")] if recipe.parent.name == "data" else []
    if recipe.parent.name != "sweeps":
        root = ["--data.root", "."] if recipe.parent.name == "photos" else []
        check_run(["fit", *under, "--config", str(recipe), *root])


def test_recipes_of_the_package_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/quickstart.yaml").write_text("{}")  # a file of the folder is preferred
    words = "fit --config experiments/conv/acb.yaml --config=experiments/conv/plain.yaml --config experiments/no.yaml"
    found = with_recipes(
        [*words.split(), "--config", "experiments/quickstart.yaml", "--name", "experiments/conv/acb.yaml"]
    )
    assert found[2] == str(EXPERIMENTS / "conv/acb.yaml")
    assert found[3] == f"--config={EXPERIMENTS / 'conv/plain.yaml'}"
    assert found[4:] == [
        *words.split()[4:],
        "--config",
        "experiments/quickstart.yaml",
        "--name",
        "experiments/conv/acb.yaml",
    ]
    assert Path(found[2]).is_file()


def test_evaluation_needs_a_checkpoint() -> None:
    for command in ("validate", "test", "predict"):
        with pytest.raises(UsageError, match="--ckpt_path"):
            check_run([command])
    with pytest.raises(UsageError, match=r"'b.ckpt' is not part of an option; a command takes one checkpoint"):
        check_run(with_checkpoint(["test", "--ckpt_path", "a.ckpt", "b.ckpt"]))


def test_a_file_after_test_and_validate_is_the_checkpoint() -> None:
    for command in ("test", "validate"):
        words = with_checkpoint([command, "--seed_everything", "1", "a.ckpt", "--trainer.devices", "1"])
        assert Arguments(words).last("ckpt_path") == "a.ckpt"
        assert len(Arguments(words).options) == 3
    for words in (["fit", "a.ckpt"], ["test", "a.ckpt", "b.ckpt"], ["test", "a.yaml"], ["test", "--ckpt_path=a", "b"]):
        assert with_checkpoint(words) == words


def test_arguments_are_read_as_they_were_typed() -> None:
    arguments = Arguments(["fit", "-c", "a.yaml", "--data.pad=-1", "--x", "-3", "--flag", "--data", "D", "word"])
    assert [(option.typed, option.value) for option in arguments.options] == [
        ("-c", "a.yaml"),
        ("--data.pad", "-1"),
        ("--x", "-3"),
        ("--flag", None),
        ("--data", "D"),
    ]
    assert arguments.positional == [(9, "word")]
    assert arguments.configs == ["a.yaml"]


def test_a_checkpoint_brings_the_options_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"")
    (tmp_path / "run" / "config.yaml").write_text("data: {class_path: acnet_pl.data.CIFARDataModule}\n")
    check_run(["test", "--ckpt_path", "run/last.ckpt", "--data.root", "."])
    with pytest.raises(UsageError, match="CIFARDataModule has no such option"):
        check_run(["test", "--ckpt_path", "run/last.ckpt", "--data.image_size", "8"])
    photos = "data: {class_path: acnet_pl.data.ImageFolderDataModule, init_args: {root: .}}\n"
    (tmp_path / "run" / "config.yaml").write_text(photos)
    check_run(["test", "--ckpt_path", "run/last.ckpt"])  # the root, which has no default, is the run's
    (tmp_path / "run" / "config.yaml").write_text("data: {class_path: my_package.MyData}\n")
    check_run(["test", "--ckpt_path", "run/last.ckpt", "--data.anything", "8"])


def test_an_output_is_a_file_or_a_link_to_one(tmp_path: Path) -> None:
    target, link, pipe, circle = (tmp_path / name for name in ("target", "link", "pipe", "circle"))
    link.symlink_to(target)
    assert check_output(link) == target
    assert check_output(target) == target
    os.mkfifo(pipe)
    circle.symlink_to(circle)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for wrong, what in (
        (pipe, "is a named pipe, device or socket"),
        (tmp_path / "zero", "is a named pipe, device or socket"),
        (circle, "is a link that leads to no file"),
    ):
        with pytest.raises(UsageError, match=what):
            check_output(wrong)
    target.touch()
    with pytest.raises(UsageError, match="would take the place of the file that is read"):
        check_output(link, target)


def test_an_output_ends_as_what_is_written(tmp_path: Path) -> None:
    photo, link = tmp_path / "1.png", tmp_path / "p.csv"
    photo.touch()
    link.symlink_to(photo)
    for wrong in (photo, link, tmp_path / "new.txt"):
        with pytest.raises(UsageError, match=r"writes \.csv files, and this name ends in \.(png|txt); give one"):
            check_output(wrong, ending=".csv")
    with pytest.raises(UsageError, match=r"ends in nothing; give one such as .*/new\.csv$"):
        check_output(tmp_path / "new", ending=".csv")
    assert check_output(tmp_path / "new.CSV", ending=".csv") == tmp_path / "new.CSV"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer: {max_epochs: four}", r"run/config\.yaml: trainer\.max_epochs: expected an int or null, got 'four'"),
        ("trainer: {max_epoch: 4}", r"run/config\.yaml: trainer\.max_epoch: .* did you mean trainer\.max_epochs\?"),
        ("model: {conv: ACBCon}", r"run/config\.yaml: model\.conv"),
    ],
)
def test_a_mistake_in_the_configuration_of_a_run_names_its_file(content: str, message: str) -> None:
    Path("run").mkdir()
    Path("run", "config.yaml").write_text(content)
    with pytest.raises(UsageError, match=message):
        check_run(["fit", "--resume", "run"])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="has no /proc")
def test_a_folder_in_which_no_file_can_be_made_is_named() -> None:
    with pytest.raises(UsageError, match=r"--output /proc/x.csv: files cannot be made in the folder /proc"):
        check_output(Path("/proc/x.csv"), ending=".csv")
