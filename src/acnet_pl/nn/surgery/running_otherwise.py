"""Trace the other paths of a network, such as torch.fx cannot follow, by evaluating it with other values."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from acnet_pl.nn.surgery.decisions import other_values, variations
from acnet_pl.nn.surgery.effects import no_effects
from acnet_pl.nn.surgery.errors import lacks_tried_key, raised_by_user
from acnet_pl.nn.surgery.functions import strings_in
from acnet_pl.nn.surgery.handled import Handled
from acnet_pl.nn.surgery.running import Recorder, call, run
from acnet_pl.nn.surgery.trace import Trace

__all__ = ["run_otherwise"]

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def run_otherwise(
    model: nn.Module, example_input: Any, kinds: Collection[type[nn.Module]], handled: Handled
) -> Iterator[Trace]:
    """Trace the other paths that the code of these classes may take in eval mode, if they can be evaluated.

    ``handled`` is what was recorded on the path as it is.
    """
    for path in _other_paths(model.eval(), example_input, kinds, handled):
        recorder = Recorder(model)
        try:
            with no_effects(), ExitStack() as stack:
                for change in path.changes:
                    stack.enter_context(change)
                trace = run(partial(model, **path.options), model, path.example, recorder)
        except Exception as error:  # up to which it shows what it does: with other values it may go on
            if raised_by_user(error) or lacks_tried_key(error, tried=path.tried):
                continue
            trace = recorder.trace
        yield replace(trace, decision=path.decision)


@dataclass(frozen=True)
class _Path:
    """Another path: the place of its decision, and what its evaluation differs in.

    ``tried`` tells whether an argument or attribute has another value there.
    """

    decision: str
    example: Any
    options: dict[str, Any] = field(default_factory=dict)
    changes: Sequence[AbstractContextManager[None]] = ()
    tried: bool = True


def _other_paths(
    model: nn.Module, example_input: Any, kinds: Collection[type[nn.Module]], handled: Handled
) -> Iterator[_Path]:
    leaves, spec = tree_flatten(example_input)
    strings = strings_in(model)
    for index, leaf in enumerate(leaves):
        for value in other_values(leaf, strings):
            other = tree_unflatten([*leaves[:index], value, *leaves[index + 1 :]], spec)
            yield _Path("it depends on an argument", other)
    for name, default in _left_out(model, example_input).items():
        for value in other_values(default, strings):
            yield _Path(f"it depends on the argument `{name}`", example_input, {name: value})
    for kind in kinds:
        modules = [module for module in model.modules() if type(module) is kind]
        for one in variations(modules[0], model, entered=handled.may_have_entered):
            changes = [one.taken_by(module) for module in modules]
            yield _Path(one.what, example_input, {}, changes, tried=bool(one.attribute))


def _left_out(model: nn.Module, example_input: Any) -> dict[str, Any]:
    """Return the defaults of the arguments that an example does not give."""
    signature = inspect.signature(model.forward)
    given = call(signature.bind, example_input).arguments
    left = [each for name, each in signature.parameters.items() if name not in given]
    return {each.name: each.default for each in left if each.default is not each.empty and each.kind in _BY_NAME}
