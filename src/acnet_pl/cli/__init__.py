"""The command line: ``{program} COMMAND``."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "fit": "train a network, fold it, check the fold, test it and its robustness to rotation",
    "validate": "evaluate a checkpoint on the validation data and check its fold",
    "test": "evaluate a checkpoint on the test data, also rotated and flipped",
    "predict": "write the class probabilities of the test data to a file",
    "fuse": "fold the network of a checkpoint and write its weights",
    "export": "write the folded network of a checkpoint as ONNX, exported program or stock weights",
    "reproduce": "run a table or figure of the article and report it beside the published numbers",
    "data": "write a data set as shards that can be streamed, or look for unreadable images",
    "demo": "train a plain network and its ACNet on handwritten digits and compare them",
}

_OWN = {
    "fuse": "acnet_pl.cli.fuse",
    "reproduce": "acnet_pl.cli.reproduce",
    "export": "acnet_pl.cli.export",
    "data": "acnet_pl.cli.data",
    "demo": "acnet_pl.cli.demo",
}

_OVERVIEW = """usage: {program} COMMAND [options]

Train CNNs with asymmetric convolution blocks (ACNet, ICCV 2019), fold them exactly, deploy the plain network.

commands:
{commands}

examples:
  {program} fit
      an ACNet on scikit-learn's handwritten digits, which need no download
  {program} fit --model.backbone ResNetCifar --model.backbone.depth 56 --model.conv ACBConv \\
      --data CIFARDataModule --data.root data/
  {program} fit --config experiments/cifar10/resnet56.yaml --config experiments/conv/acb.yaml
  {program} fuse runs/NAME/TIME/checkpoints/last.ckpt

Runs, checkpoints and folded files may name classes of acnet_pl, torch, torchvision, timm and pytorch_lightning alone;
`--trust PACKAGE` (any command, again for each package) allows those of another.
`{program} COMMAND --help` shows a command's options. ACNET_PL_DEBUG=1 shows the traceback of an error.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failed run, 2 for a mistake on the command line."""
    args = list(sys.argv[1:] if args is None else args)
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
    from acnet_pl.trust import trusting

    with readable_errors(args[0] if args[0] in COMMANDS else "") as outcome:
        args, packages = take_trusted(args)
        with trusting(packages):
            _run(args)
    return outcome.code


def _run(args: Sequence[str]) -> None:
    """Check what can be known at once, and only then import what the command needs."""
    from acnet_pl.config.errors import UsageError
    from acnet_pl.config.names import did_you_mean, nearest

    if args[0] not in COMMANDS:
        near = did_you_mean(nearest(args[0], COMMANDS))
        raise UsageError(f"unknown command {args[0]!r}; expected one of {', '.join(COMMANDS)}{near}")
    if args[0] not in _OWN:
        from acnet_pl.cli.help import run_help, topic_of
        from acnet_pl.config.arguments import Arguments
        from acnet_pl.config.checks import check_run

        if (topic := topic_of(Arguments(args))) is not None:
            print(run_help(args, topic))
            return
        check_run(args)
    importlib.import_module(_OWN.get(args[0], "acnet_pl.cli.lightning")).run(args)


def _overview() -> str:
    from acnet_pl.config.program import program

    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return _OVERVIEW.format(commands=lines, program=program())
