"""Show ``--help`` of `fit`, `validate`, `test` and `predict`: one screen, or one part of the options.

Nothing heavy is imported: names, defaults and descriptions are read from the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from acnet_pl.cli.layout import columns, described
from acnet_pl.config.arguments import Arguments
from acnet_pl.config.catalogue import Catalogue, KnownOption
from acnet_pl.config.choices import CALLBACK, SLOTS, choices
from acnet_pl.config.defaults import default_configs
from acnet_pl.config.errors import UsageError
from acnet_pl.config.names import did_you_mean, nearest
from acnet_pl.config.program import program
from acnet_pl.config.settings import GROUPS, settings_of_files, text_of
from acnet_pl.config.signatures import signature
from acnet_pl.config.trusted import TRUST

__all__ = ["run_help", "topic_of"]

# What each command does.
_ABOUT = {
    "fit": "Train a network, fuse it into plain convolutions, check the fused network, and test both.\n"
    "All is written to runs/NAME/TIME: config.yaml, checkpoints/, metrics.csv, fused.safetensors, summary.json.",
    "validate": "Evaluate a checkpoint on the validation data of its run, and check the fused network.",
    "test": "Evaluate a checkpoint on the test data of its run, also rotated and flipped.",
    "predict": "Write the class probabilities of the test data of a checkpoint's run to a file.",
}
# The options that matter to most: name, metavar, explanation; "" starts a heading.
_SCREEN = {
    "fit": [
        ("", "", "what is trained"),
        ("model.backbone", "NAME", "{names}"),
        ("model.conv", "NAME", "{names}"),
        ("", "", "on what"),
        ("data", "NAME", "{names}"),
        ("data.root", "DIR", "the images, for data that are on disk"),
        ("data.batch_size", "N", "images in a training batch, over all devices"),
        ("", "", "how"),
        ("trainer.max_epochs", "N", "epochs"),
        ("model.optimizer", "NAME", "any of torch.optim"),
        ("model.optimizer.lr", "X", "learning rate at the start"),
        ("model.optimizer.weight_decay", "X", ""),
        ("model.schedule", "NAME", "of this package or torch"),
        ("trainer.accelerator", "NAME", "auto, cpu, gpu, mps"),
        ("trainer.devices", "N", "how many, such as 2"),
        ("trainer.precision", "NAME", "32-true, bf16-mixed, 16-mixed"),
        ("seed_everything", "N", "weights, order and augmentation"),
        ("", "", "the run"),
        ("name", "NAME", "its name; null is backbone and conv"),
        ("resume", "auto|DIR", "continue the newest unfinished run or this"),
        ("checkpoint.monitor", "METRIC", "keep the best epoch, by val/top1 and --checkpoint.mode max"),
        ("wandb.mode", "NAME", "offline, online, disabled"),
    ],
    "evaluate": [
        ("ckpt_path", "FILE", "the checkpoint, if not given above; network and data are its run's"),
        ("data", "NAME", "other data: {names}"),
        ("data.root", "DIR", "the images, for data that are on disk"),
        ("trainer.accelerator", "NAME", "auto, cpu, gpu, mps"),
        ("trainer.precision", "NAME", "32-true, bf16-mixed, 16-mixed"),
        ("runs_dir", "DIR", "where the results are written"),
    ],
}
_EXAMPLES = {
    "fit": """  {program} fit
  {program} fit --data CIFARDataModule --data.root data/ --model.backbone ResNetCifar --model.backbone.depth 20
  {program} fit --config experiments/cifar10/resnet56.yaml --config experiments/conv/acb.yaml --data.root data/""",
    "evaluate": "  {program} {command} {option}runs/NAME/TIME/checkpoints/last.ckpt",
}


def topic_of(arguments: Arguments) -> str | None:
    """Return the topic of ``--help``: "" for the screen, None if help is not asked for."""
    for option in arguments.options:
        if option.typed in ("--help", "-h"):
            return option.value or ""
    return None


def run_help(words: Sequence[str], topic: str) -> str:
    """Return the help of a command.

    Args:
        words: The command and its arguments, of which the chosen classes count.
        topic: "" for one screen; "all"; the name of a part (trainer, data, backbone, ...), or of a class.

    Raises:
        UsageError: There is no such topic.
    """
    command = words[0]
    catalogue = Catalogue(command)
    defaults: dict[str, Any] = {}
    for setting in settings_of_files(default_configs(words)):
        catalogue.choose(setting)
        defaults[setting.name] = setting.value
    if topic == "":
        return _screen(command, catalogue, defaults)
    if topic == "all":
        parts = ["\n".join(_part(group, catalogue, defaults)) for group in ["run", *catalogue.groups[1:]]]
        return "\n\n".join(part for part in parts if part)
    parts_by_name = {"run": "run", **{group: group for group in GROUPS}}
    parts_by_name["callbacks"] = CALLBACK
    parts_by_name.update({name: slot for slot in SLOTS for name in (slot, slot.removeprefix("model."))})
    if topic.lstrip("-") in parts_by_name:
        return "\n".join(_part(parts_by_name[topic.lstrip("-")], catalogue, defaults))
    classes = {name: (slot, path) for slot in (CALLBACK, *SLOTS) for name, path in choices(slot).items()}
    if topic in classes:
        slot, path = classes[topic]
        catalogue.classes[slot] = path
        return "\n".join(_class(slot, catalogue, {}))
    known = ["all", *parts_by_name, *classes]
    raise UsageError(
        f"--help {topic}: there is no such part; give all, one of "
        f"{', '.join(name for name in parts_by_name if '.' not in name)}, or the name of a class"
        f"{did_you_mean(nearest(topic, known))}"
    )


def _screen(command: str, catalogue: Catalogue, defaults: dict[str, Any]) -> str:
    kind = command if command in _SCREEN else "evaluate"
    file = " CHECKPOINT" if command in ("validate", "test") else ""
    lines = [f"usage: {program()} {command}{file} [--config FILE]... [--OPTION VALUE]...", "", _ABOUT[command], ""]
    for name, metavar, text in _SCREEN[kind]:
        if not name:
            lines.append(f"{text}:")
            continue
        text = text.format(names=", ".join(choices(name)) if name in SLOTS else "")
        default = "" if kind == "evaluate" and name == "data" else _default(name, catalogue, defaults)
        shown = f" (default {default})" if default not in ("", "null") else ""
        lines += described(f"  --{name} {metavar}", f"{text}{shown}".strip())
    lines += [
        "files:",
        *described("  --config FILE", "options as YAML; later ones win"),
        *described("  --print_config", "print all options as YAML, and stop"),
        *described(f"  {TRUST[0]}", TRUST[1]),
        "",
        "examples:",
        _EXAMPLES[kind].format(program=program(), command=command, option="" if file else "--ckpt_path "),
        "",
        f"More: {program()} {command} --help all, or --help with trainer, model, data, backbone, conv, callbacks,",
        "optimizer, schedule, checkpoint, or the name of a class, such as --help ResNetCifar",
    ]
    return "\n".join(lines)


def _part(group: str, catalogue: Catalogue, defaults: dict[str, Any]) -> Iterator[str]:
    """Yield the help lines of a part of the options."""
    if group in (*SLOTS, CALLBACK):
        chosen = f" NAME: the {SLOTS[group]}; default {_default(group, catalogue, defaults)}" if group in SLOTS else ""
        yield f"--{group}{chosen or '+ NAME: one more callback'}"
        yield ""
        found = {name: signature(path) for name, path in choices(group).items()}
        for name, about in found.items():
            if about and about.summary:
                yield from described(f"  {name}", about.summary)
        yield from columns(", ".join(name for name, about in found.items() if not (about and about.summary)))
        if catalogue.owner(group) is not None:
            yield ""
            yield from _class(group, catalogue, defaults)
        return
    about = catalogue.owner(group)
    title = "the run and its folder" if group == "run" else f"--{group}"
    yield f"{title}{f': {about.summary}' if about and about.summary else ''}"
    for name, option in catalogue.options_of("" if group == "run" else group).items():
        if name not in SLOTS and name != "model.num_classes":
            yield from _option(option, _default(name, catalogue, defaults))


def _class(slot: str, catalogue: Catalogue, defaults: dict[str, Any]) -> Iterator[str]:
    """Yield the help lines of the class that is chosen in a slot."""
    owner = catalogue.owner(slot)
    assert owner is not None
    yield from columns(f"{owner.name}: {owner.summary}" if owner.summary else owner.name)
    for name, option in catalogue.options_of(slot).items():
        yield from _option(option, _default(name, catalogue, defaults))


def _option(option: KnownOption, default: str) -> Iterator[str]:
    needed = option.parameter.default is None
    notes = [str(option.values) if option.values.choices else "", "required" if needed else f"default {default}"]
    yield from described(f"  --{option.name}", f"{option.parameter.help} ({', '.join(filter(None, notes))})".strip())


def _default(name: str, catalogue: Catalogue, defaults: dict[str, Any]) -> str:
    """Return an option's default as it would be typed; "" if it has none."""
    if name in defaults:
        text = text_of(defaults[name])
        return (text or str(defaults[name])).rpartition(".")[2] if name in SLOTS else text or str(defaults[name])
    option = catalogue.options_of(catalogue.group_of(name)).get(name)
    source = option.parameter.default if option else None
    if source is None:
        return ""
    return {"None": "null", "True": "true", "False": "false"}.get(source, source.strip("'\""))
