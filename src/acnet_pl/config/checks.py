"""Find mistakes on a command line before torch is imported.

What these checks let pass, the parser and the classes themselves judge; what they refuse is certainly wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.catalogue import Catalogue
from acnet_pl.config.choices import SLOTS, choices, resolve
from acnet_pl.config.defaults import checkpoint_that_brings_data, data_of_checkpoint, default_configs
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import CONFIG, is_missing, nearby
from acnet_pl.config.names import did_you_mean, nearest, nearest_option
from acnet_pl.config.numbers import check_number
from acnet_pl.config.settings import GROUPS, Setting, settings_of_arguments, settings_of_files, text_of
from acnet_pl.config.signatures import signature
from acnet_pl.config.trainer_classes import check_trainer_classes

__all__ = ["check_run"]

# What Lightning takes in place of a file.
_CHECKPOINTS = ("best", "last", "hpc")


def check_run(words: Sequence[str]) -> None:
    """Check the command line of `fit`, `validate`, `test` or `predict`.

    Args:
        words: The command and its arguments.

    Raises:
        UsageError: An option, a class, a value or a file is certainly wrong.
    """
    arguments = Arguments(words)
    for _, word in arguments.positional:
        way_out = "options begin with --, a file is given with --config"
        if arguments.command != "fit" and not word.endswith((".yaml", ".yml")):
            way_out = "a command takes one checkpoint: its file, or --ckpt_path FILE"
        raise UsageError(f"{word!r} is not part of an option; {way_out}")
    catalogue = Catalogue(arguments.command)
    final: dict[str, Setting] = {}
    resumed = arguments.last("resume")
    for setting in settings_of_files(default_configs(words)):
        catalogue.choose(setting)
        final[setting.name] = setting
    if (checkpoint := checkpoint_that_brings_data(words)) is not None:
        data = data_of_checkpoint(checkpoint)[1]
        name = data.get("class_path") if isinstance(data, dict) else None
        catalogue.classes["data"] = (isinstance(name, str) and resolve("data", name)) or ""
        options = data.get("init_args") if isinstance(data, dict) else None
        for option, value in options.items() if isinstance(options, dict) else ():
            final[f"data.{option}"] = Setting(f"data.{option}", value, f"data.{option}", str(checkpoint), -1)
    of_resumed = settings_of_files([str(Path(resumed, CONFIG))] if resumed else [])
    settings = [*of_resumed, *settings_of_arguments(arguments)]
    for setting in settings:
        _check_name(setting, catalogue)
        if setting.name in GROUPS:
            _check_group(setting)
        elif setting.name in SLOTS:
            _check_class(setting)
            catalogue.choose(setting)
        else:
            _check_value(setting, catalogue)
        final[setting.name] = setting
    check_trainer_classes(settings)
    for setting in final.values():
        _check_characters(setting)
        check_number(setting)
    _check_run_name(final.get("name"))
    _check_seed(final.get("seed_everything"))
    if any(option.name == "print_config" for option in arguments.options):
        return  # nothing is run: what is missing may be said later
    _check_required(final, catalogue)
    _check_files(final, catalogue, arguments.command)


def _check_name(setting: Setting, catalogue: Catalogue) -> None:
    if catalogue.knows(setting.name) is not False:
        return
    near = nearest_option(setting.name, catalogue.names())
    group = catalogue.group_of(setting.name)
    owner = catalogue.owner(group) if group in SLOTS else None
    option = "option" if setting.source is None else "setting"
    missing = f"{owner.name} has no such {option}" if owner else f"there is no such {option}"
    if near is not None:
        raise UsageError(f"{setting}: {missing}{did_you_mean(near if setting.source else f'--{near}')}")
    own = [name.rpartition(".")[2] for name in catalogue.options_of(group)] if owner else []
    has = f"it has {', '.join(own)}" if own else "it has none" if owner else "`--help all` lists every option"
    raise UsageError(f"{setting}: {missing}; {has}")


def _check_group(setting: Setting) -> None:
    """Refuse a plain value in the place of several options; a file of options may be named, which the parser opens."""
    value = setting.value
    if value is None or (isinstance(value, str) and (value.lstrip().startswith("{") or "." in value)):
        return
    raise UsageError(f"{setting}: expected options and their values, as in `{setting.name}: {{...}}`, got {value!r}")


def _check_characters(setting: Setting) -> None:
    """Refuse null characters, which no file or folder can have, and control characters in the run's name."""
    forbidden = {chr(code) for code in (*range(32), 127)} if setting.name == "name" else {"\0"}
    if isinstance(setting.value, str) and (found := sorted(forbidden.intersection(setting.value))):
        raise UsageError(f"{setting}: {setting.value!r} contains the control character {found[0]!r}; leave it out")


def _check_run_name(given: Setting | None) -> None:
    """Refuse a run name that would put the run's folder outside the folder of runs."""
    if given is None or not isinstance(given.value, str) or not given.value:
        return
    if Path(given.value).is_absolute() or Path(os.path.normpath(given.value)).parts[:1] in ((), (os.pardir,)):
        raise UsageError(
            f"{given} {given.value}: a run's folder is runs_dir/NAME/TIME, and this name leaves --runs_dir; give a "
            "name such as resnet56-acb, and another place with --runs_dir"
        )


def _check_seed(given: Setting | None) -> None:
    """Refuse a seed that NumPy does not take."""
    if given is not None and re.fullmatch(r"[+-]?\d+", str(given.value)) and not 0 <= int(given.value) < 2**32:
        raise UsageError(f"{given}: expected a seed from 0 to {2**32 - 1}, true or false, got {given.value}")


def _check_class(setting: Setting) -> None:
    value, slot = setting.value, setting.name
    if value is None and setting.source is None:
        raise UsageError(f"{setting} needs a value: the name of a {SLOTS[slot]}; known are {', '.join(choices(slot))}")
    if value is None or (isinstance(value, str) and (value in ("null", "") or resolve(slot, value) is not None)):
        return
    known = choices(slot)
    if not isinstance(value, str):
        raise UsageError(
            f"{setting}: expected the name of a {SLOTS[slot]}, got {value!r}; known are {', '.join(known)}"
        )
    near = nearest(value.rpartition(".")[2], known, beginning=4)
    raise UsageError(
        f"{setting} {value}: there is no such {SLOTS[slot]}; known are {', '.join(known)}{did_you_mean(near)}"
    )


def _check_value(setting: Setting, catalogue: Catalogue) -> None:
    option = catalogue.options_of(catalogue.group_of(setting.name)).get(setting.name)
    if setting.value is None and setting.source is None:
        if option is not None:
            raise UsageError(
                f"{setting} needs a value: {option.values if option.values.is_known else 'see its --help'}"
            )
        return
    text = text_of(setting.value)
    if option is None or text is None or not option.values.refuse(text):
        return
    near = did_you_mean(nearest(text, option.values.choices))
    raise UsageError(f"{setting}: expected {option.values}, got {text!r}{near}")


def _check_files(final: dict[str, Setting], catalogue: Catalogue, command: str) -> None:
    """Check that required files and folders exist."""
    given = final.get("ckpt_path")
    if given is None or given.value in (None, "null"):
        if command != "fit":
            raise UsageError(
                f"{command} needs a trained network; give its file with --ckpt_path, for example "
                "runs/NAME/TIME/checkpoints/last.ckpt"
            )
    elif isinstance(given.value, str) and given.value not in _CHECKPOINTS and is_missing(given.value):
        raise UsageError(f"{given} {given.value}: there is no such file{nearby(Path(given.value))}")
    resumed = final.get("resume")
    if resumed and resumed.value not in (None, "null", "auto") and not Path(str(resumed.value)).is_dir():
        missing = f"{resumed} {resumed.value}: there is no such folder{nearby(Path(str(resumed.value)))}"
        raise UsageError(f"{missing}; give that of a run which was stopped, or auto")
    data = signature(catalogue.classes.get("data") or "")
    if data is not None and data.path.startswith("acnet_pl."):
        _check_root(final, can_download="download" in data.parameters)


def _check_root(final: dict[str, Setting], can_download: bool) -> None:
    root, download = final.get("data.root"), final.get("data.download")
    downloads = download is not None and text_of(download.value) in ("true", "True", "yes", "on")
    if root is None or not isinstance(root.value, str) or downloads or not is_missing(root.value):
        return
    way_out = ", or say --data.download true" if can_download else ""
    missing = f"{root} {root.value}: there is no such folder{nearby(Path(root.value))}"
    raise UsageError(f"{missing}; give the folder of the images with --data.root{way_out}")


def _check_required(final: dict[str, Setting], catalogue: Catalogue) -> None:
    """Check that every option without a default is given."""
    for slot, what in SLOTS.items():
        owner = catalogue.owner(slot)
        for name, option in catalogue.options_of(slot).items() if owner else ():
            if option.parameter.default is None and name not in final:
                raise UsageError(f"{owner.name} needs {option.parameter.name}; give --{name} with the {what}")  # type: ignore[union-attr]
