"""Neighbours of a batch norm: the layers before or after it that traces show to be connected to it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.hooks import Boundaries
from acnet_pl.nn.surgery.rivals import Rivals
from acnet_pl.nn.surgery.trace import OUTSIDE, Layer, Trace, channels_of, listed, operation

__all__ = ["Neighbours"]


class Neighbours:
    """Finds neighbours in traces of a network: what it does now, and what it may do at other calls.

    Args:
        found: The network's layers by name.
        traces: Traces of the network as it is, and of the other paths its code may take.
        rivals: What another call may choose instead of modules that are called now.
        boundaries: The hooks that see what passes from one module to another.
        unforeseen: For pairs of neighbours, in the order of the data, where code may part them in a way not traced.

    Attributes:
        read: Layers whose tensors are read other than by calling them.
        asked: Layers whose tensors are referred to, perhaps only for a shape or type.
        undecided: Queried layers and batch norms that are neighbours now, but perhaps not at another call.
    """

    def __init__(
        self,
        found: Mapping[str, Layer],
        traces: list[Trace],
        rivals: Rivals,
        boundaries: Boundaries,
        unforeseen: Mapping[tuple[str, str], str],
    ) -> None:
        self.found = found
        self.traces = sorted((trace for trace in traces if trace.calls), key=lambda trace: bool(trace.decision))
        self.rivals = rivals
        self.boundaries = boundaries
        self.unforeseen = unforeseen
        self.asked = frozenset(name for trace in traces for name in trace.asked)
        self.read = frozenset(name for trace in traces for name in trace.read)
        self.read |= {name for name in self.asked if self._is_norm(name)}  # a fused one has none
        self.undecided: set[str] = set()

    def parts(self, norm: str) -> tuple[str, ...]:
        """Return the layers whose (concatenated) outputs a batch norm takes now, or () if that varies."""
        inputs = {made for trace in self.traces if not trace.decision for made in trace.inputs[norm]}
        return inputs.pop() if len(inputs) == 1 else ()

    def norm_after(self, name: str) -> tuple[str, str]:
        """Return the batch norm after a layer, and the reason why it is not the layer's alone, or ""."""
        norms = sorted(one for one in self._now("consumers", name) if self._is_norm(one))
        if not norms:
            return "", "no batch norm follows"
        norm, called = norms[0], f"batch norm `{norms[0]}`"
        if why := self._against(name, lambda trace: self._parted(name, norm, trace), called):
            return norm, why
        if name in self.read or norm in self.read:
            return norm, f"{called} or the convolution is read other than by calling it"
        return norm, self._choice(name, norm)

    def readers(self, norm: str) -> tuple[tuple[str, ...], str]:
        """Return the layers that take a batch norm's output, and the reason why they do not take it alone, or ""."""
        consumers = tuple(sorted(self._now("consumers", norm)))
        if others := [one for one in consumers if not self._is_layer(one)]:
            return (), f"its output goes {_words(others)}"
        if not consumers:
            return (), "its output goes nowhere"
        if why := self._against(norm, lambda trace: self._misread(norm, consumers, trace), "its output"):
            return (), why
        if {norm, *consumers} & self.read:
            return (), "it or the layer after it is read other than by calling it"
        return consumers, next((why for one in consumers if (why := self._choice(norm, one))), "")

    def why_not_after(self, norm: str, norm_missing: Mapping[str, str]) -> str:
        """Return the reason why no layer before a batch norm is connected to it alone."""
        parts = self.parts(norm) or self._only_operations(norm)
        if not parts:
            return "its inputs come from different places"
        if others := [part for part in parts if not self._is_layer(part)]:
            start = "its input comes" if len(parts) == 1 else "its input is a concatenation that comes partly"
            return f"{start} {_words(others, 'from')}"
        return next((f"`{part}` before it: {norm_missing[part]}" for part in parts if part in norm_missing), "")

    def _only_operations(self, norm: str) -> tuple[str, ...]:
        """Return where a batch norm's one input comes from, if from operations; an evaluation does not name them."""
        inputs = {made for trace in self.traces if not trace.decision for made in trace.inputs[norm]}
        single = sorted({made[0] for made in inputs if len(made) == 1 and made[0].startswith("<")})
        if len(single) < len(inputs):
            return ()
        return tuple([name for name in single if name != operation("operation")][:1] or single[:1])

    def _against(self, name: str, ask: Callable[[Trace], str], start: str) -> str:
        for trace in self.traces:
            if reason := ask(trace):
                self.undecided |= {name} if trace.decision else set()
                return f"{start} {reason}" + (f": {trace.decision}" if trace.decision else "")
        return ""

    def _parted(self, name: str, norm: str, trace: Trace) -> str:
        """Return the reason in a trace why a batch norm is not a layer's alone, or ""."""
        parts = self.parts(norm)
        if set(trace.consumers[name]) - {norm} or trace.consumers[name][norm] != trace.calls[name]:
            return "is not the only consumer of the convolution's output"
        if name not in parts or len(set(parts)) != len(parts) or trace.inputs[norm].keys() - {parts}:
            return "also normalises something else"
        if not all(self._is_layer(part) for part in parts):
            return f"normalises it together with what comes {_words(parts, 'from')}"
        if self._hooked_between(name, norm, trace):
            return "is separated from the convolution by a hook on the value between them"
        if channels_of(self.found[norm]) != sum(channels_of(self.found[part]) for part in parts):
            return "has a different number of channels"
        return ""

    def _misread(self, norm: str, readers: tuple[str, ...], trace: Trace) -> str:
        if others := trace.consumers[norm].keys() - set(readers):
            return f"also goes {_words(sorted(others))}"
        if norm in trace.changed:
            return "is read only after something may have changed its input in place"
        for name in readers:
            if trace.producers[name].keys() - {norm} or trace.consumers[norm][name] != trace.calls[name]:
                return f"is not the only input of `{name}`"
            if self._hooked_between(norm, name, trace):
                return f"is separated from `{name}` by a hook on the value between them"
        return ""

    def _hooked_between(self, first: str, second: str, trace: Trace) -> bool:
        passed = trace.passed.get(first, ())
        return self.boundaries.hooked_between(self.found[first], self.found[second], passed)

    def _choice(self, first: str, second: str) -> str:
        if why := self.unforeseen.get((first, second)):
            self.undecided.add(first)
            return f"{why}, so that `{first}` and `{second}` may be parted at another call"
        between = sorted({name for trace in self.traces if not trace.decision for name in trace.passed[first]})
        for name in (second, first, *between):
            others = (first, second) if name in between else (first if name == second else second,)
            if other := next(filter(None, (self.rivals.instead_of(name, beside=one) for one in others)), ""):
                self.undecided.add(first)
                kind = "batch norm" if self._is_norm(name) else "layer" if name in self.found else "module"
                return f"{kind} `{name}` is one of several: `{other}` is not called now"
        return ""

    def _now(self, side: str, name: str) -> set[str]:
        return {one for trace in self.traces if not trace.decision for one in getattr(trace, side)[name]}

    def _is_norm(self, name: str) -> bool:
        return isinstance(self.found.get(name), _BatchNorm)

    def _is_layer(self, name: str) -> bool:
        return name in self.found and not self._is_norm(name)


def _words(names: list[str] | tuple[str, ...], word: str = "to") -> str:
    """Describe where a value goes to or comes from: operations, layers, or outside the network."""
    operations = sorted({f"`{name[1:-1]}`" for name in names if name.startswith("<") and name != OUTSIDE})
    words = [f"{word} the operation {' or '.join(operations)}"] if operations else []
    words += [f"{word} batch norm or layer {listed([n for n in names if not n.startswith('<')], 2)}"] * any(
        not n.startswith("<") for n in names
    )
    words += ["out of the network" if word == "to" else "from the network's input"] * (OUTSIDE in names)
    return " and ".join(words)
