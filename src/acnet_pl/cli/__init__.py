"""The command line, ``python -m acnet_pl COMMAND``: one module for each command in `commands`, found by its file."""

from __future__ import annotations

import gc
import importlib
import io
import sys
from collections.abc import Sequence
from types import ModuleType

from acnet_pl.cli.streams import outlive_readers
from acnet_pl.config.discovery import installed, modules

__all__ = ["command_modules", "main", "run_on_data"]

_LIGHTNING = {
    "fit": "train a network, fuse it, check the fused network, test it and its robustness to rotation",
    "validate": "evaluate a checkpoint on the validation data and check its fused network",
    "test": "evaluate a checkpoint on the test data, also rotated and flipped",
}

_OVERVIEW = """usage: {program} COMMAND [options]

Train CNNs with asymmetric convolution blocks (ACNet, ICCV 2019), fuse them exactly, deploy the plain network.

commands:
{commands}

examples:
  {program} fit
      an ACNet on scikit-learn's handwritten digits, which need no download
  {program} fit --model.backbone ResNetCifar --model.backbone.depth 56 --model.conv ACBConv \\
      --data CIFARDataModule --data.root data/
  {program} fit --config experiments/cifar10/resnet56.yaml --config experiments/conv/acb.yaml
  {program} test runs/NAME/TIME/checkpoints/last.ckpt
  {program} fuse runs/NAME/TIME/checkpoints/last.ckpt

your own photos, a folder for each class:
  {program} data check photos/
  {program} fit --data ImageFolderDataModule --data.root photos/ --model.backbone Torchvision
  {program} predict runs/NAME/TIME/fused.safetensors new_photos/ --output predictions.csv

Runs, checkpoints and fused files may name classes of acnet_pl, torch, torchvision, timm and pytorch_lightning alone;
`--trust PACKAGE` (any command, again for each package) allows those of another.
`{program} COMMAND --help` shows a command's options. ACNET_PL_DEBUG=1 shows the traceback of an error.
"""


def command_modules() -> dict[str, str]:
    """Return the dotted path of the module that runs each command, by the command's name."""
    return {**dict.fromkeys(_LIGHTNING, "acnet_pl.cli.lightning"), **modules("cli.commands"), **installed("commands")}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for an error while it ran, 2 for a mistake found before."""
    args = list(sys.argv[1:] if args is None else args)
    outlive_readers()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from acnet_pl.provenance import package_version

        print(f"acnet_pl {package_version('acnet-pl')}")
        return 0
    from acnet_pl.cli.errors import readable_errors
    from acnet_pl.config.trusted import take_trusted
    from acnet_pl.quiet import keep_sizes_quiet
    from acnet_pl.trust import trusting

    keep_sizes_quiet()
    with readable_errors(args[0] if args[0] in command_modules() else "") as outcome:
        args, packages = take_trusted(args)
        with trusting(packages):
            _run(args)
    return outcome.code


def _run(args: Sequence[str]) -> None:
    """Check the command's name, then import what the command needs and run it."""
    from acnet_pl.config.errors import UsageError
    from acnet_pl.config.names import did_you_mean, nearest

    known = command_modules()
    if args[0] not in known:
        near = did_you_mean(nearest(args[0], known))
        raise UsageError(f"unknown command {args[0]!r}; expected one of {', '.join(known)}{near}")
    if args[0] in _LIGHTNING:
        run_on_data(args)
    else:
        _load(known[args[0]]).run(args)


def run_on_data(args: Sequence[str]) -> None:
    """Show the help of `fit`, `validate`, `test` or `predict` with ``--ckpt_path``, or check the options and run it.

    Args:
        args: The command and its arguments.
    """
    from acnet_pl.cli.help import run_help, topic_of
    from acnet_pl.config.arguments import Arguments
    from acnet_pl.config.checks import check_run
    from acnet_pl.config.defaults import with_checkpoint, with_config_of_resumed
    from acnet_pl.config.files import with_recipes

    args = with_checkpoint(with_recipes(args))
    if (topic := topic_of(Arguments(args))) is not None:
        print(run_help(args, topic))
        return
    with_config_of_resumed(args)  # what a stranger's run may not name is refused before anything else is said of it
    check_run(args)
    _load("acnet_pl.cli.lightning").run(args)


def _load(path: str) -> ModuleType:
    """Import a command's module without garbage collection, which finds nothing but takes a seventh of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(path)
    finally:
        if collects:
            gc.enable()


def _overview() -> str:
    from acnet_pl.config.program import program
    from acnet_pl.config.signatures import module_summary

    summaries = {name: _LIGHTNING.get(name) or module_summary(path) for name, path in command_modules().items()}
    width = max(map(len, summaries))
    lines = "\n".join(f"  {name:{width}}  {text[:1].lower()}{text[1:].rstrip('.')}" for name, text in summaries.items())
    return _OVERVIEW.format(commands=lines, program=program())
