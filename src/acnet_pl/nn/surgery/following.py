"""Follow shifts through the graphs of a network, to the layers that take them up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.surgery.channelwise import (
    adds,
    averages_maps,
    concatenates,
    drops_out,
    flattens,
    keeps_channels,
    pads_with_zeros,
    passes,
)
from acnet_pl.nn.surgery.in_place import Memory
from acnet_pl.nn.surgery.plain import activations, is_plain_conv, is_plain_norm, why_not_plain
from acnet_pl.nn.surgery.reading import asks_metadata
from acnet_pl.nn.surgery.shifts import (
    ImpossibleError,
    UnprovenError,
    Value,
    added,
    concatenated,
    same_shift,
    through_kernel,
)
from acnet_pl.nn.surgery.surroundings import settings_of
from acnet_pl.nn.surgery.ties import ties
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.wrappers import is_altered

__all__ = ["Shifts"]


class Shifts:
    """Follows shifts through graphs and collects the layers that take them up.

    Attributes:
        taken_up: What each layer takes up, and the sources.
        involved: Modules through which shifts go, with the sources.
        dropouts: Dropouts through which shifts go, with the sources.
        seen: Names of the modules that are called.
    """

    def __init__(
        self, model: nn.Module, root: nn.Module, loose: Mapping[str, Tensor], roomy: Collection[str], owners: Owners
    ) -> None:
        self.model = model
        self.root = root
        self.loose = loose
        self.roomy = roomy
        self.owners = owners
        self.names = {module: name for name, module in model.named_modules()}
        self.settings = {module: {**settings_of(module), "training": False} for module in self.names}
        self.tied = ties(model)
        self.values: dict[fx.Node, Value] = {}
        self.memory = Memory([])
        self.taken_up: dict[str, tuple[Tensor | None, frozenset[str]]] = {}
        self.involved: dict[str, frozenset[str]] = {}
        self.dropouts: dict[str, frozenset[str]] = {}
        self.seen: set[str] = set()

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _name(self, node: fx.Node) -> str:
        module = self._module(node)
        return node.name if module is None else self.names[module]

    def run(self, graph: fx.Graph) -> None:
        """Follow the shifts through a graph of the whole network, or of what it does up to an error.

        Raises:
            UnprovenError: A shift cannot be followed or taken up, or the graph contradicts an earlier one.
            ImpossibleError: No input takes the path of this graph.
        """
        self.values = {}
        self.memory = Memory(list(graph.nodes))
        for node in graph.nodes:
            if node.op == "get_attr":
                self._note_read(node)
            module = self._module(node)
            given = [self.values[value] for value in node.all_input_nodes]
            if module is not None:
                self.seen.add(self.names[module])
                self._involve(module, given, node)
            value = self.values[node] = self._evaluate(node, module, given)
            if value.sources:
                self.involved |= {self.names[passing]: value.sources for passing in node.meta.get("passed_by", ())}
            self._change(node, module)

    def _note_read(self, node: fx.Node) -> None:
        home, _, attribute = str(node.target).rpartition(".")
        if not all(asks_metadata(user) for user in node.users):
            self.owners.use(getattr(self.root.get_submodule(home), attribute, None))

    def _involve(self, module: nn.Module, given: list[Value], node: fx.Node) -> None:
        """Record a module that gives or takes a shift; raise an error if its class does not tell what it does."""
        name = self.names[module]
        sources = frozenset[str]().union(*(value.sources for value in given)) | (self.loose.keys() & {name})
        if not sources:
            return
        self.involved[name] = self.involved.get(name, frozenset()) | sources
        if is_altered(module):
            raise UnprovenError(sources, f"`{name}` has a hook or a forward of its own, whose effect on it is unknown")
        before, now = self.settings[module], node.meta["settings"]
        if changed := [key for key in before if key not in now or now[key] != before[key]]:
            raise UnprovenError(sources, f"the code of the network changes `{name}.{changed[0]}` before it calls it")

    def _change(self, node: fx.Node, module: nn.Module | None) -> None:
        """Follow what a node does to other values in the memory that it changes in place."""
        value = self.values[node]
        for other in self.memory.follow(node, module):
            before = self.values[other]
            if self.memory.is_same(node, other):
                self.values[other] = value
            elif not same_shift(before.shift, value.shift):
                sources = before.sources | value.sources
                raise UnprovenError(sources, f"`{node.name}` changes a tensor in place of which there may be views")

    def refuse_unused(self, graph: fx.Graph) -> None:
        """Raise an error if the code computes a value with a shift of which nothing more is seen."""
        for node in graph.nodes:
            value = self.values[node]
            if value.shift is not None and self.memory.is_unused(node):
                raise UnprovenError(value.sources, f"what becomes of the output of `{self._name(node)}` is not seen")

    def refuse_unseen(self) -> None:
        """Raise an error if a block is never called, or if the code reads or sets what is to be changed."""
        if unseen := self.loose.keys() - self.seen:
            raise UnprovenError(unseen, "no call of it was traced, so what becomes of its output is not known")
        sources = {**self.involved, **{name: frozenset({name}) for name in self.loose}}
        for name in sorted(self.owners.touched & sources.keys()):
            raise UnprovenError(
                sources[name], f"the code of the network reads or sets tensors or attributes of `{name}` itself"
            )

    def _evaluate(self, node: fx.Node, module: nn.Module | None, given: list[Value]) -> Value:
        if module is not None and is_altered(module):
            return Value()
        if isinstance(module, (FusibleConv, _ConvNd)):
            return self._convolution(module, given[0])
        if isinstance(module, _BatchNorm):
            return self._batch_norm(module, given[0])
        if isinstance(module, nn.Linear):
            return self._linear(module, given[0])
        if asks_metadata(node):
            return Value()
        if (operands := adds(node, module)) is not None:
            return added([self.values[value] for value in operands])
        if (joined := concatenates(node)) is not None:
            return concatenated([self.values[value] for value in joined[0]], joined[1])
        if (rate := drops_out(node, module)) is not None:
            if rate and given[0].sources:
                self.dropouts[self._name(node)] = self.dropouts.get(self._name(node), frozenset()) | given[0].sources
            return given[0]
        if passes(node, module):
            return given[0]
        if flattens(node, module) and given[0].shift is not None:
            return replace(given[0], channels=None, flat=True)
        if (kept := averages_maps(node)) is not None and given[0].channels is not None:
            return given[0] if kept or given[0].shift is None else replace(given[0], channels=None, flat=True)
        out = self._unknown(node, given)
        return Value(given[0].channels) if given and keeps_channels(node, module) else out

    def _unknown(self, node: fx.Node, given: list[Value]) -> Value:
        """Return what is known of the result of an operation that nothing is known of, which may take no shift."""
        for value in given:
            if value.shift is not None:
                what = "the output" if node.op == "output" else f"`{self._name(node)}`"
                raise UnprovenError(value.sources, f"it would change what {what} gives")
        return Value()

    def _convolution(self, conv: FusibleConv | _ConvNd, x: Value) -> Value:
        name = self.names[conv]
        plain = isinstance(conv, FusibleConv) or is_plain_conv(conv)
        library = isinstance(conv, FusibleConv) or type(conv).forward.__module__.startswith("torch.nn.")
        channels = conv.out_channels if plain or library else None
        if plain and x.channels not in (None, conv.in_channels):
            raise ImpossibleError(f"`{name}` gets {x.channels} channels")
        shift, sources = None, x.sources
        if x.shift is not None:
            if x.flat or not (isinstance(conv, FusibleConv) or is_plain_conv(conv)):
                why = why_not_plain(conv) if isinstance(conv, nn.Conv2d) else f"it is a {type(conv).__name__}"
                raise UnprovenError(x.sources, f"`{name}` is in the way: {'its input is flat' if x.flat else why}")
            kernel = conv.fuse_kernel()[0] if isinstance(conv, FusibleConv) else exact(conv.weight)
            if pads_with_zeros(conv, kernel):
                again = " and takes its own output back" * (name in x.sources)
                raise UnprovenError(x.sources, f"`{name}` pads its input with zeros{again}")
            shift = through_kernel(x.shift, kernel, conv.groups)
        own = "bias" in conv._parameters and conv._parameters["bias"] is not None  # otherwise it may be computed
        if name in self.roomy or (isinstance(conv, _ConvNd) and own):
            self._take_up(name, shift, sources)
            return Value(channels)
        if name in self.loose:
            shift = self.loose[name] if shift is None else shift + self.loose[name]
            sources = sources | {name}
        return Value(channels, shift, sources)

    def _batch_norm(self, norm: _BatchNorm, x: Value) -> Value:
        name = self.names[norm]
        if x.channels not in (None, norm.num_features):
            raise ImpossibleError(f"`{name}` gets {x.channels} channels")
        if x.shift is not None and (x.flat or not is_plain_norm(norm)):
            raise UnprovenError(x.sources, f"`{name}` is a {type(norm).__name__}" + " after flattening" * x.flat)
        if norm.running_mean is not None:  # a batch norm without running statistics removes any shift itself
            self._take_up(name, x.shift, x.sources)
        kept = is_plain_norm(norm) and all(keeps_channels(None, after) for _, after in activations(norm))
        return Value(norm.num_features if kept else None)

    def _linear(self, layer: nn.Linear, x: Value) -> Value:
        if x.shift is None:
            return Value()
        name = self.names[layer]
        if not x.flat or x.shift.numel() != layer.in_features:
            raise UnprovenError(x.sources, f"`{name}` takes more than one value per channel")
        shift = exact(layer.weight) @ x.shift
        if layer._parameters.get("bias") is None:
            return Value(None, shift, x.sources, flat=True)
        self._take_up(name, shift, x.sources)
        return Value()

    def _take_up(self, name: str, shift: Tensor | None, sources: frozenset[str]) -> None:
        """Record what a layer takes up; raise an error if that differs from an earlier call."""
        tied = self.tied.get(self.model.get_submodule(name), {})
        if shift is not None and (why := tied.get("running_mean") or tied.get("bias")):
            raise UnprovenError(sources, f"`{name}` would have to take it up alone, but {why}")
        before, earlier = self.taken_up.get(name, (shift, sources))
        if not same_shift(before, shift):
            raise UnprovenError(
                sources | earlier, f"`{name}` is called several times, and would have to take up different biases"
            )
        self.taken_up[name] = (shift, sources)
