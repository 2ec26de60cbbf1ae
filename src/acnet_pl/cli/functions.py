"""Commands that are functions: parameters become options, docstrings become help."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from acnet_pl.cli.layout import columns, described
from acnet_pl.config.messages import ReadableErrors
from acnet_pl.config.program import program
from acnet_pl.config.signatures import Parameter, Signature, signature
from acnet_pl.config.trusted import TRUST
from acnet_pl.config.values import values_of

__all__ = ["FunctionParser", "PlainParser", "run_function"]

Function = Callable[..., Any]


class PlainParser(ReadableErrors, argparse.ArgumentParser):
    """argparse's parser with readable errors."""


class FunctionParser(ReadableErrors, ArgumentParser):
    """Parser of a command that is a function."""


def run_function(
    function: Function | Mapping[str, Function],
    args: Sequence[str],
    examples: Sequence[str],
    given: Mapping[str, Any] | None = None,
) -> None:
    """Parse the options of a function and call it, or show its help; dashes and underscores are alike.

    Args:
        function: What a command does, or functions by the name of a subcommand. Parameters without a default are
            given without their names.
        args: The command and its arguments.
        examples: Command lines for the help, without the program's name.
        given: Arguments of the function that are not parsed.
    """
    if {"-h", "--help"} & {*args[1:]}:
        print("\n".join([*_help(function, args), "", "examples:", *(f"  {program()} {line}" for line in examples)]))
        return
    words = [_with_underscores(word) if word.startswith("--") else word for word in args[1:]]
    auto_cli(
        _with(function, given or {}) if callable(function) else dict(function),
        args=words,
        as_positional=True,
        prog=f"{program()} {args[0]}",
        parser_class=FunctionParser,
        allow_abbrev=False,
    )


def _with(function: Function, given: Mapping[str, Any]) -> Function:
    """Return a function with some arguments fixed, as a plain function, because the parser refuses partials."""
    if not given:
        return function

    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **options, **given)

    about = inspect.signature(function, eval_str=True)
    rest = [parameter for name, parameter in about.parameters.items() if name not in given]
    vars(call)["__signature__"] = about.replace(parameters=rest)
    call.__doc__ = function.__doc__
    return call


def _help(function: Function | Mapping[str, Function], args: Sequence[str]) -> list[str]:
    if callable(function):
        return _help_of_one(_signature(function), args[0])
    if len(args) > 1 and args[1] in function:
        return _help_of_one(_signature(function[args[1]]), f"{args[0]} {args[1]}")
    lines = [f"usage: {program()} {args[0]} {{{','.join(function)}}} ...", ""]
    for name, one in function.items():
        lines += described(f"  {name}", _signature(one).summary, indent=14)
    return [*lines, "", f"More: {program()} {args[0]} {next(iter(function))} --help"]


def _help_of_one(about: Signature, command: str) -> list[str]:
    required = [parameter for parameter in about.parameters.values() if parameter.default is None]
    optional = [parameter for parameter in about.parameters.values() if parameter.default is not None]
    given = " ".join(f"{parameter.name.upper()}{'...' * _is_list(parameter)}" for parameter in required)
    lines = [f"usage: {program()} {command}{f' {given}' if given else ''} [--OPTION VALUE]...", ""]
    lines += [*columns(about.summary), ""]
    for parameter in required:
        lines += described(f"  {parameter.name.upper()}", parameter.help, indent=22)
    for parameter in optional:
        default = (parameter.default or "").removeprefix("Path(").removesuffix(")")
        default = {"None": "", "True": "true", "False": "false"}.get(default, default)
        values = values_of(parameter.annotation, about.module)
        notes = [str(values) if values.choices else "", f"default {default.strip(chr(39))}" if default else ""]
        note = ", ".join(filter(None, notes))
        lines += described(f"  --{parameter.name}", f"{parameter.help}{f' ({note})' if note else ''}", indent=22)
    return [*lines, *described(f"  {TRUST[0]}", f"{TRUST[1].capitalize()}.", indent=22)]


def _is_list(parameter: Parameter) -> bool:
    return parameter.annotation is not None and ast.unparse(parameter.annotation).startswith("list[")


def _signature(function: Function) -> Signature:
    found = signature(f"{function.__module__}.{function.__qualname__}")
    assert found is not None
    return found


def _with_underscores(option: str) -> str:
    name, equals, value = option[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
