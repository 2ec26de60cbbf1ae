"""What a stranger's run may have executed: nothing; and what the user's own command line may: classes of their kind."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.cli import main
from acnet_pl.config.errors import UsageError
from acnet_pl.config.run_paths import _PLACE
from acnet_pl.config.trusted import take_trusted
from acnet_pl.modules.untrusted import check_classes, check_parts
from acnet_pl.trust import trusting

pytestmark = pytest.mark.filterwarnings("ignore")

NET = """
from pathlib import Path
from torch import nn
from acnet_pl.data import DigitsDataModule

Path("proof").touch()

class Net(nn.Sequential):
    def __init__(self, conv, num_classes):
        super().__init__(conv(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

class Data(DigitsDataModule):
    pass

def make_net(conv, num_classes) -> nn.Module:
    return Net(conv, num_classes)

def make_anything(conv, num_classes):
    Path("called").touch()
    return Net(conv, num_classes)
"""
PLAIN: dict[str, Any] = {
    "model": {
        "backbone": {"class_path": "acnet_pl.backbones.CifarQuick", "init_args": {}},
        "conv": {"class_path": "acnet_pl.nn.ACBConv", "init_args": {"gamma_init": 0.5}},
    },
    "data": {"class_path": "acnet_pl.data.DigitsDataModule", "init_args": {"batch_size": 64}},
    "trainer": {"max_epochs": 1, "callbacks": None},
    "name": "torch.run",  # plain text may look like anything
    "fuse": {"filename": "fused.safetensors"},
}
COMMAND = {"args": ["touch", "proof"]}
# Annotated to return a module, which it makes by running a text.
CODE = {
    "class_path": "torch.fx.graph_module.reduce_graph_module",
    "init_args": {"body": {"_code": "pass"}, "import_block": "open('proof', 'w').close()"},
}
# What the parser could open instead of a class, as it does a file.
INLINE = "data://;base64,e2NsYXNzX3BhdGg6IHRyb2phbl9ob3JzZS5OZXR9"  # {class_path: trojan_horse.Net}
ADDRESSES = [INLINE, "file:///more.yaml", "local://more.yaml", "file://more.yaml", "simplecache::local://more.yaml"]
ADDRESSES += ["http://localhost:1/more.yaml", "s3://bucket/more.yaml", "memory://more.yaml", "unheard-of://more.yaml"]
# What one parser of YAML reads and another refuses: keys that occur twice, dates that are none, tabs.
UNREAD = [
    "{class_path: trojan_horse.Net, class_path: trojan_horse.Net}",
    "{class_path: trojan_horse.Net, init_args: {x: 2001-99-99}}",
    *("trojan_horse.Net\t", "[trojan_horse.Net\t]", "[\ttrojan_horse.Net]", "---\ttrojan_horse.Net"),
    *("!!str\ttrojan_horse.Net", "&a\ttrojan_horse.Net", "\ufefftrojan_horse.Net", "trojan_horse.Net # x", "- a: b"),
]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``stranger(**changes)``: the folder of an unfinished run of which the configuration says something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("trojan_horse.py").write_text(NET)
    Path("more.yaml").write_text("{class_path: trojan_horse.Net}")

    def make(changes: dict[str, Any]) -> Path:
        config = yaml.safe_load(yaml.safe_dump(PLAIN))
        for key, value in changes.items():
            *parents, last = key.split("/")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "UNFINISHED").touch()
        (run / "beside.yaml").write_text("{class_path: trojan_horse.Net}")
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run

    yield make
    sys.modules.pop("trojan_horse", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"model/backbone": {"class_path": "trojan_horse.Net"}},
        {"model/backbone": "trojan_horse.Net"},
        {"model/backbone": "{class_path: trojan_horse.Net}"},
        {"model/backbone": "more.yaml"},
        {"model/backbone": {"class_path": "os.system", "init_args": {"command": "touch proof"}}},
        {"model/backbone": {"class_path": "acnet_pl.cli.resume.os.system", "init_args": {"command": "touch proof"}}},
        {"model/backbone": {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "Net"}}},
        {
            "model/backbone": {
                "class_path": "acnet_pl.backbones.Timm",
                "init_args": {"options": {"x": {"class_path": "subprocess.Popen", "init_args": COMMAND}}},
            }
        },
        {"model/backbone": {"class_path": "torchvision.models.segmentation.FCN", "init_args": {"classifier": CODE}}},
        {
            "trainer/callbacks": [
                {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_fit_start": CODE}}
            ]
        },
        {"model/conv/class_path": "subprocess.Popen"},  # with the options of a conv builder
        {"model/optimizer": {"class_path": "subprocess.Popen", "init_args": COMMAND}},
        {"model/schedule": {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os._exit"}}},
        {"model": "more.yaml"},
        {"data": {"class_path": "trojan_horse.Data"}},
        {"data": "trojan_horse.Data"},
        {
            "trainer/callbacks": [
                {
                    "class_path": "pytorch_lightning.callbacks.LambdaCallback",
                    "init_args": {"setup": "trojan_horse.make_anything"},
                }
            ]
        },
        {"trainer/callbacks": ["trojan_horse.Net"]},
        {"trainer/logger": {"class_path": "subprocess.Popen", "init_args": COMMAND}},
        {"fit": {"model": {"backbone": {"class_path": "trojan_horse.Net"}}}},
        {"config": "more.yaml"},
        {"wandb": {"group": {"class_path": "trojan_horse.Net"}}},
        {"model/backbone": "!!str trojan_horse.Net"},
        {"model/backbone": "'trojan_horse.Net'"},
        {"model/backbone": "beside.yaml"},
        {"trainer/callbacks": "beside.yaml"},
        {"kernels": "beside.yaml"},
        {"data": "beside.yaml"},
        {"kernels": "not_there_yet.yaml"},
        {"model.backbone": "trojan_horse.Net"},
        {"model.backbone.class_path": "trojan_horse.Net"},
        {"data.class_path": "trojan_horse.Data"},
        {"trainer.callbacks": ["trojan_horse.Net"]},
        {"trainer/callbacks+": ["trojan_horse.Net"]},
        {"model/backbone.class_path": "trojan_horse.Net"},
        {"model/backbone": {"class_path": "acnet_pl.backbones.CifarQuick", "init_args.x": "trojan_horse.Net"}},
        {"model/backbone/init_args": {"x.class_path": "trojan_horse.Net"}},
        *({"model/backbone": address} for address in ADDRESSES),
        *({place: INLINE} for place in ("model", "model/conv", "model/optimizer", "data", "trainer/profiler", "fit")),
        {"model/backbone": f"'{INLINE}'"},
        *({"trainer/plugins": text} for text in UNREAD),
        *({place: UNREAD[0]} for place in ("trainer/strategy", "trainer/callbacks", "trainer/logger", "model/conv")),
        {"model/backbone": {"class_path": "acnet_pl.backbones.Timm", "init_args": {"options": {"x": UNREAD[0]}}}},
        {"trainer/callbacks": "[{class_path: pytorch_lightning.callbacks.LambdaCallback, init_args: {setup: a.b}}]"},
        {"trainer/logger": "{class_path: pytorch_lightning.loggers.CSVLogger, init_args: {save_dir: /elsewhere}}"},
        {
            "trainer/logger": {
                "class_path": "pytorch_lightning.loggers.WandbLogger",
                "init_args": {"settings": {"x_files_dir": "elsewhere"}},
            }
        },
        {
            "trainer/logger": {
                "class_path": "pytorch_lightning.loggers.WandbLogger",
                "dict_kwargs": {"entity": "somebody"},
            }
        },
        {"trainer/plugins": {"trojan_horse.Net"}},
        {"trainer/plugins": b"trojan_horse.Net"},
        {"trainer/callbacks": [INLINE]},
        {"trainer/strategy": INLINE},
        {
            "model/schedule": {
                "class_path": "torch.optim.lr_scheduler.SequentialLR",
                "init_args": {"schedulers": [INLINE], "milestones": []},
            }
        },
    ],
    ids=str,
)
def test_a_run_of_someone_else_has_nothing_executed(
    changes: dict[str, Any], stranger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stranger(changes)
    assert main(["fit", "--resume", str(run), "--print_config"]) == 1
    message = capsys.readouterr().err
    assert f"{run / 'config.yaml'} cannot be resumed: " in message
    assert "Traceback" not in message
    assert not Path("proof").exists()
    assert "trojan_horse" not in sys.modules


def test_the_parser_opens_no_address(stranger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Not on the command line either, where a class is expected: what is behind it may change."""
    stranger({})
    for address in ADDRESSES:
        assert main(["fit", "--model.backbone", address, "--print_config"]) == 2
        assert "Traceback" not in capsys.readouterr().err
        assert "trojan_horse" not in sys.modules
    assert main(["fit", "--config", "s3://bucket/mine.yaml"]) == 2
    assert "copy the file to this machine and give its path" in capsys.readouterr().err


def test_classes_inside_others_options_are_of_trusted_packages_too() -> None:
    """Wherever the parser has found them."""
    inside = {"class_path": "trojan_horse.Net", "init_args": {}}
    options = {"class_path": "acnet_pl.backbones.Timm", "init_args": {"options": {"x": inside}}}
    with trusting([]), pytest.raises(ValueError, match="add --trust trojan_horse"):
        check_classes({"model": {"backbone": options}})


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "posix.system", "builtins.eval", "os.path.join"])
def test_trust_in_the_standard_library_is_not_proposed(
    path: str, stranger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stranger({"model/backbone": {"class_path": path}})
    assert main(["fit", "--resume", str(run), "--print_config"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"the backbone {path} is of Python's standard library; such a name has no place in a run's files" in message
    assert "--trust" not in message
    assert "import" not in message


def test_a_class_is_named_with_its_module(stranger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--resume", str(stranger({"model/backbone": {"class_path": "eval"}})), "--print_config"]) == 1
    assert "the backbone is 'eval', expected a dotted path, as acnet_pl" in " ".join(capsys.readouterr().err.split())


def test_a_run_of_ones_own_is_gone_on_with(stranger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"tags": ["a: b", "[x]", "torch.optim", "#1", "'", "s3://bucket"], "group": "{a: b, a: c}"}
    own = {"wandb": odd, "checkpoint": {"filename": "{epoch:03d}-{step}-{val/top1:.2f}"}, "trainer/devices": "0,1"}
    assert main(["fit", "--resume", str(stranger(own)), "--print_config"]) == 0
    assert "gamma_init: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("trust", [["--trust", "trojan_horse"], ["--trust=trojan_horse"]])
def test_a_package_is_trusted_by_its_name(trust: list[str], stranger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = stranger({"model/backbone": {"class_path": "trojan_horse.Net"}, "data": {"class_path": "trojan_horse.Data"}})
    assert main(["fit", "--resume", str(run), "--print_config"]) == 1
    assert "add --trust trojan_horse" in capsys.readouterr().err
    assert main(["fit", "--resume", str(run), *trust, "--print_config"]) == 0
    assert "trojan_horse.Net" in capsys.readouterr().out
    assert Path("proof").exists()


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("torch.nn.Linear", True),
        ("torch.optim.lr_scheduler.StepLR", True),
        ("torchvision.models.resnet18", True),
        ("torchvision.ops.Conv2dNormActivation", True),
        ("timm.models.resnet.resnet18", True),
        ("pytorch_lightning.plugins.environments.SLURMEnvironment", True),
        ("torch.fx.GraphModule", False),
        ("torch.fx.graph_module.reduce_graph_module", False),
        ("torch.jit.ScriptModule", False),
        ("torchvision.models.feature_extraction.DualGraphModule", False),  # a torch.fx.GraphModule
        ("torchvision.models.get_model", False),
        ("timm.create_model", False),  # which takes a file of weights
        ("acnet_pl.load_fused", False),
        ("acnet_pl.deploy.nn.Linear", False),
    ],
)
def test_of_the_libraries_that_files_may_name_they_may_name_parts(path: str, fits: bool) -> None:
    with trusting(take_trusted(["fit", "--model.optimizer", "torch.optim.SGD", "--data", "timm.Data"])[1]):
        refused = pytest.raises(ValueError, match=r"add --trust torch|do not use|(is|there is) (not a|no) layer")
        with nullcontext() if fits else refused:
            check_parts({"layer": {"class_path": path}})
    with trusting(take_trusted(["fit", "--trust", "torch"])[1]):
        check_parts({"layer": {"class_path": "torch.fx.GraphModule"}})


def test_what_names_a_package(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("{model: {backbone: {class_path: a.Net}, conv: b.Conv}, data: {init_args: {root: c/d.e}}}")
    args = ["fit", "--config", str(config), "--data=f.Data", '--trainer.callbacks+={"class_path": "g.h.Callback"}',
            "--trust", "i", "--trust=j", "--resume", "k/l.m", "--model.conv", "n"]  # fmt: skip
    others, packages = take_trusted(args)
    assert packages == {"a", "b", "f", "g", "i", "j"}
    assert others == [arg for arg in args if arg not in ("--trust", "i", "--trust=j")]
    for given, got in ((["--trust", "-x"], "nothing"), (["--trust=my.package"], "'my.package'")):
        with pytest.raises(UsageError, match=f"--trust takes the name of a top-level package, got {got}"):
            take_trusted(["fit", *given])


def test_a_trusted_package_that_is_not_there_is_named(stranger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = stranger({"model/backbone": {"class_path": "no_such_horse.Net"}})
    assert main(["fit", "--resume", str(run), "--trust", "no_such_horse", "--print_config"]) == 1
    assert "needs the package no_such_horse, which is not installed" in capsys.readouterr().err


def test_names_of_files_and_runs_name_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mynet.ckpt").touch()
    for words in (
        "fuse mynet.ckpt", "fuse other.ckpt --output mynet.safetensors", "fit --name my.run --runs_dir a.b",
        "fit --trainer.default_root_dir a.b --wandb.group=a.b", "fit --model.backbone mynet.ckpt",
        "fit --data.root a.b --fuse.filename=a.b", "fit --name={class_path:a.b}",
    ):  # fmt: skip
        assert take_trusted(words.split())[1] == frozenset(), words
    Path("mine.yaml").write_text("{model.backbone: a.Net, fit: {data.class_path: b.Data}, name: c.d}")
    args = ["fit", "-c", "mine.yaml", "--model.backbone.class_path=e.Net", "--trainer.strategy", "f.Strategy"]
    assert take_trusted([*args, "--trainer.callbacks", "[g.Timer, Timer]"])[1] == {"a", "b", "e", "f", "g"}


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"checkpoint": {"dirpath": "/elsewhere"}}, "checkpoint.dirpath"),
        ({"checkpoint": {"dirpath": "elsewhere"}}, "checkpoint.dirpath"),  # in the working directory
        ({"checkpoint": {"filename": "../../best"}}, "checkpoint.filename"),
        ({"checkpoint": {"filename": "{step:c}tmp/best"}}, "checkpoint.filename"),  # at step 47 it begins with a slash
        ({"predictions": {"filename": "~/.profile"}}, "predictions.filename"),
        (
            {
                "trainer/logger": [
                    {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "", "name": "../x"}}
                ]
            },
            "trainer.logger.name",
        ),
        *(
            ({"trainer/logger": [{"class_path": f"pytorch_lightning.loggers.{name}", "init_args": options}]}, option)
            for name, options, option in (
                ("TensorBoardLogger", {"save_dir": "", "sub_dir": ".$EMPTY./user"}, "trainer.logger.sub_dir"),
                ("TensorBoardLogger", {"save_dir": "local://elsewhere"}, "trainer.logger.save_dir"),
                ("MLFlowLogger", {"artifact_location": "elsewhere"}, "trainer.logger.artifact_location"),
            )
        ),
        (
            {"trainer/logger": [{"class_path": "acnet_pl.loggers.MetricsCSV", "init_args": {"folder": "elsewhere"}}]},
            "trainer.logger.folder",
        ),
        (
            {
                "trainer/callbacks": [
                    {
                        "class_path": "pytorch_lightning.callbacks.SpikeDetection",
                        "init_args": {"exclude_batches_path": "results.json"},
                    }
                ]
            },
            "trainer.callbacks.exclude_batches_path",
        ),
    ],
    ids=str,
)
def test_a_run_of_someone_else_writes_into_its_folder_alone(
    changes: dict[str, Any], option: str, stranger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stranger(changes)
    assert main(["fit", "--resume", str(run), "--print_config"]) == 1
    message = capsys.readouterr().err
    assert f"{run / 'config.yaml'} cannot be resumed: {option} is " in message
    assert f"give your own on the command line: --{option}" in " ".join(message.split())


# Options of writers that take text: names, patterns and modes, which are joined to a folder or are no path at all.
NO_PLACES = {
    *("filename", "checkpoint_name", "prefix", "name", "version", "sub_dir", "run_name", "run_id", "id", "tags"),
    *(
        "experiment_name",
        "experiment_key",
        "project",
        "workspace",
        "teamspace",
        "metadata",
        "api_key",
        "recipe",
        "config",
    ),
    *("attr_name", "batch_arg_name", "device", "duration", "interval", "mode", "monitor", "network", "weights"),
    *("parameter_names", "parameters_to_prune", "pruning_fn", "sort_by_key", "table_kwargs", "console_kwargs"),
    *("process_group_backend", "logging_batch_size_per_gpu", "offload_optimizer_device", "offload_params_device"),
    *("remote_device", "ignore_modules", "checkpoint"),
}


def test_which_options_of_the_classes_that_write_are_places() -> None:
    """A library's new option that takes text is to be looked at: run_paths.py tells by its name if it is a place."""
    libraries = [importlib.import_module(f"pytorch_lightning.{name}") for name in
                 ("callbacks", "loggers", "profilers", "strategies", "plugins", "plugins.environments")]  # fmt: skip
    libraries += [importlib.import_module(f"acnet_pl.{name}") for name in ("callbacks", "loggers")]
    found: dict[str, str] = {}
    for made in (made for library in libraries for made in vars(library).values() if inspect.isclass(made)):
        for parameter in inspect.signature(made.__init__).parameters.values():
            if re.search(r"\bstr\b|Path|_PATH", str(parameter.annotation)):
                found[parameter.name] = made.__name__
    assert {"save_dir", "dirpath", "folder", "exclude_batches_path", "artifact_location"} <= found.keys()
    unknown = {name: made for name, made in found.items() if not _PLACE.search(name) and name not in NO_PLACES}
    assert not unknown


def test_paths_that_the_command_line_names_are_gone_on_with(stranger: Any) -> None:
    inside = stranger({"checkpoint": {"dirpath": "/elsewhere"}})
    assert main(["fit", "--resume", str(inside), "--checkpoint.dirpath", "/elsewhere", "--print_config"]) == 0
    inside = stranger({"checkpoint": {"dirpath": str(inside / "best")}, "trainer/default_root_dir": str(inside)})
    (inside / "fused.safetensors").touch()  # its name is an option's value
    assert main(["fit", "--resume", str(inside), "--print_config"]) == 0


def test_the_users_own_configuration_names_whatever_is_of_the_right_kind(
    stranger: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger({})
    options = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--wandb.mode", "disabled"]
    described = [{"class_path": "trojan_horse.make_anything"}, {"class_path": "os.system"}]
    for backbone, code in (*((each, 1) for each in described), ("trojan_horse.make_net", 0)):
        Path("mine.yaml").write_text(yaml.safe_dump({"model": {"backbone": backbone}}))
        outcome = main(["fit", "--config", "mine.yaml", *options, "--runs_dir", str(tmp_path / "runs")])
        message = capsys.readouterr().err
        assert (outcome > 0) == code, message
        assert "Traceback" not in message
    assert not Path("called").exists()


def test_the_kind_of_what_is_called() -> None:
    def config(**parts: str) -> dict[str, Any]:
        return {"model": {name: {"class_path": path} for name, path in parts.items()}}

    check_classes(config(backbone="torch.nn.Sequential", optimizer="torch.optim.SGD", conv="acnet_pl.nn.PlainConv"))
    for wrong in (
        config(backbone="torch.optim.SGD"),
        config(optimizer="os.kill"),
        config(conv="torch.nn.Conv2d"),
        config(schedule="torch.load"),
        {"data": {"class_path": "subprocess.Popen"}},
        {"trainer": {"callbacks": [{"class_path": "subprocess.Popen"}]}},
        {"trainer": {"logger": [{"class_path": "subprocess.Popen"}]}},
    ):
        with pytest.raises(ValueError, match="or a function annotated to return one"):
            check_classes(wrong)
