"""What is read from the sources without an import is what the parser finds in the imported classes."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.config.catalogue import Catalogue
from acnet_pl.config.choices import PASSED, SLOTS, choices
from acnet_pl.config.defaults import default_configs
from acnet_pl.config.settings import settings_of_files
from acnet_pl.config.signatures import signature

CHOICES = [(slot, name, path) for slot in SLOTS for name, path in choices(slot).items()]


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.fixture(scope="module")
def parsers() -> dict[str, Any]:
    """The real parsers of the commands of a run."""
    from pytorch_lightning import LightningDataModule

    from acnet_pl.config.run_options import RunOptions, RunParser
    from acnet_pl.modules import ImageClassifier

    class ParseNothing(RunOptions):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise StopIteration

    found: dict[str, Any] = {}

    class Recording(RunParser):
        def add_method_arguments(self, klass: Any, command: str, *args: Any, **kwargs: Any) -> Any:
            found[command] = self
            return super().add_method_arguments(klass, command, *args, **kwargs)

    options: dict[str, Any] = {"parser_class": Recording, "save_config_callback": None}
    options |= {"subclass_mode_data": True, "auto_configure_optimizers": False}
    for command in ("fit", "validate", "test", "predict"):
        with pytest.raises(StopIteration):
            ParseNothing(ImageClassifier, LightningDataModule, command=command, args=[command], **options)
    return found


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_every_option_of_the_parser_is_known_and_no_other(command: str, parsers: dict[str, Any]) -> None:
    catalogue = Catalogue(command)
    theirs = {option.removeprefix("--") for action in parsers[command]._actions for option in action.option_strings}
    theirs = {name for name in theirs if not name.startswith("-") and not name.endswith("help") and " " not in name}
    groups = {"trainer", "model", "wandb", "checkpoint", "run_checkpoint", "nonfinite", "equivalence", "rotation",
              "kernels", "fuse", "predictions"}  # fmt: skip
    own = {name for name in catalogue.names() if not any(name.startswith(f"{slot}.") for slot in SLOTS)}
    assert own - groups == {name for name in theirs if not name.endswith("+")} - groups - {"model.num_classes"}
    assert all(catalogue.knows(name.rstrip("+")) for name in theirs)


@pytest.mark.parametrize(("slot", "name", "path"), CHOICES, ids=[f"{slot} {name}" for slot, name, _ in CHOICES])
def test_the_signature_read_from_the_source_is_that_of_the_class(slot: str, name: str, path: str) -> None:
    read, real = signature(path), inspect.signature(named(path))
    assert read is not None
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = [parameter for parameter in real.parameters.values() if parameter.kind not in variadic]
    assert [*read.parameters] == [parameter.name for parameter in parameters]
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    assert {parameter.name for parameter in read.parameters.values() if parameter.default is None} == required
    assert {*PASSED[slot]} <= {*read.parameters} or path.startswith("acnet_pl.modules.")


def test_all_classes_of_the_package_can_be_chosen() -> None:
    from pytorch_lightning import LightningDataModule

    from acnet_pl import backbones, data, nn
    from acnet_pl.nn import ConvBuilder

    def concrete(package: Any, base: type) -> set[str]:
        found = {name: getattr(package, name) for name in package.__all__}
        return {
            name
            for name, thing in found.items()
            if inspect.isclass(thing) and issubclass(thing, base) and not inspect.isabstract(thing)
        }

    import torch

    assert {*choices("model.backbone")} == concrete(backbones, torch.nn.Module)
    assert {*choices("model.conv")} == concrete(nn, ConvBuilder)
    assert {*choices("data")} == concrete(data, LightningDataModule)
    assert {*choices("model.optimizer")} >= {"SGD", "Adam", "AdamW"}


def test_defaults_are_those_of_the_default_files() -> None:
    defaults = {setting.name: setting.value for setting in settings_of_files(default_configs(["fit"]))}
    assert defaults["model.backbone"] == "acnet_pl.backbones.CifarQuick"
    assert defaults["model.optimizer.lr"] == 0.1
    assert defaults["data"] == "acnet_pl.data.DigitsDataModule"
    first = yaml.safe_load(Path(default_configs(["fit"])[0]).read_text())
    assert first["trainer"]["max_epochs"] == defaults["trainer.max_epochs"]
