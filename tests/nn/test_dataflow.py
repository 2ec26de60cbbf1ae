"""Which batch norm follows which convolution: from data flow, never from the order of registration."""

from __future__ import annotations

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.nn import ACBlock
from acnet_pl.nn.surgery.dataflow import follow

X = torch.ones(2, 3, 8, 8)


class Net(nn.Module):
    """Two convolutions, two batch norms (registered the wrong way round), and a forward given from outside."""

    def __init__(self, flow: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.norm2 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.flow = flow

    def forward(self, x: Tensor) -> Any:
        return self.flow(self, x)


def untraceable(flow: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    """The same flow behind a decision on data, which torch.fx cannot follow."""
    return lambda net, x: flow(net, x) if x.sum() > -1e9 else x


def in_order(net: Net, x: Tensor) -> Any:
    return F.relu(net.norm2(net.conv2(F.relu(net.norm1(net.conv1(x))))))


def twice_the_pair(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(net.norm1(net.conv1(x))))


def output_used_twice(net: Net, x: Tensor) -> Any:
    out = net.conv1(x)
    return net.norm1(out) + out


def output_returned(net: Net, x: Tensor) -> Any:
    out = net.conv1(x)
    return net.norm1(out), out


def norm_used_for_two(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)) + net.norm1(net.conv2(x))


def norm_used_for_input_too(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(net.norm1(x)))


def conv_before_two_norms(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)) + net.norm2(net.conv1(2 * x))


def conv_sometimes_without(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)) + net.conv1(2 * x)


def relu_between(net: Net, x: Tensor) -> Any:
    return net.norm1(F.relu(net.conv1(x)))


def in_place_between(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x).add_(1))


def weight_read(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)) + F.conv2d(x, net.conv1.weight, padding=1)


def weight_decayed_in_forward(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)), net.conv1.weight.square().sum()


def statistics_read(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1(x)) * net.norm1.get_buffer("running_var").mean()


def forward_called_directly(net: Net, x: Tensor) -> Any:
    return net.norm1(net.conv1.forward(x))


def nothing_follows(net: Net, x: Tensor) -> Any:
    return net.conv2(F.relu(net.conv1(x)))


def shape_asked(net: Net, x: Tensor) -> Any:
    out = net.conv1(x)
    return F.interpolate(net.norm1(out), size=out.shape[-2:]).reshape(out.size(0), -1)


PAIR = {"conv1": "norm1"}
FLOWS = [
    (in_order, {"conv1": "norm1", "conv2": "norm2"}),
    (twice_the_pair, PAIR),
    (shape_asked, PAIR),
    (output_used_twice, {}),
    (output_returned, {}),
    (norm_used_for_two, {}),
    (norm_used_for_input_too, {}),
    (conv_before_two_norms, {}),
    (conv_sometimes_without, {}),
    (relu_between, {}),
    (in_place_between, {}),
    (weight_read, {}),
    (weight_decayed_in_forward, {}),
    (statistics_read, {}),
    (forward_called_directly, {}),
    (nothing_follows, {}),
]


@pytest.mark.parametrize(("flow", "pairs"), FLOWS, ids=[flow.__name__ for flow, _ in FLOWS])
@pytest.mark.parametrize("how", ["symbolic", "example", "both"])
def test_batch_norm_belongs_to_the_convolution_only_where_nothing_else_is_involved(
    flow: Callable[[Any, Tensor], Any], pairs: dict[str, str], how: str
) -> None:
    net = Net(untraceable(flow) if how == "example" else flow)
    found = follow(net, None if how == "symbolic" else X)
    assert found.norm_of == pairs
    assert not found.obstacle
    assert not found.unknown
    assert not (found.norm_missing.keys() & pairs.keys())


@pytest.mark.parametrize("wrap", [lambda flow: flow, untraceable], ids=["symbolic", "example"])
@pytest.mark.parametrize("flow", [weight_read, weight_decayed_in_forward, forward_called_directly])
def test_convolution_read_other_than_by_calling_it_is_noticed(flow: Any, wrap: Any) -> None:
    assert follow(Net(wrap(flow)), X).read == {"conv1"}


def test_flow_that_differs_between_train_and_eval_mode_counts_in_both() -> None:
    def forward(net: Net, x: Tensor) -> Any:
        out = net.conv1(x)
        return (net.norm1(out), net.norm2(net.conv2(x)), out) if net.training else net.norm1(out)

    for wrap in (lambda flow: flow, untraceable):
        net = Net(wrap(forward)).eval()
        found = follow(net, X)
        assert found.norm_of == {"conv2": "norm2"}
        assert found.norm_missing["conv1"] == "batch norm `norm1` is not the only consumer of the convolution's output"
        assert not net.training


class Masked(Net):
    """The mask may part the pair, the other argument does not."""

    def forward(self, x: Tensor, mask: Tensor | None = None, twice: bool = False) -> Any:
        out = self.conv1(x)
        if mask is not None:
            out = out * mask
        return self.norm1(out) * (2 if twice else 1), self.norm2(self.conv2(x))


class ByIndex(Net):
    """An argument chooses the norm, an attribute another one."""

    chosen: int

    def __init__(self, flow: Any) -> None:
        super().__init__(flow)
        self.chosen = 0

    def forward(self, x: Tensor, index: int = 0) -> Any:
        norms, convs = [self.norm1, self.norm2], [self.conv1, self.conv2]
        return norms[index](self.conv1(x)), norms[1 - self.chosen](convs[1](x))


class Saying(Net):
    """Strings, a global helper and an overridden forward decide."""

    mode: str

    def __init__(self, flow: Any) -> None:
        super().__init__(flow)
        self.mode = "normal"

    def forward(self, x: Tensor) -> Any:
        raw = self.conv2(x)
        return (raw if self.mode == "raw" else self.norm2(raw)), helped(self.conv1, self.norm1, x)


class Inheriting(Saying):
    """Decides in what it inherits."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0], self.norm1(self.conv1(x))


SWITCHED_ON = False


def helped(conv: nn.Module, norm: nn.Module, x: Tensor) -> Any:
    return norm(conv(x)) if not SWITCHED_ON else norm(2 * conv(x))


class Sampled(Net):
    """A random number decides, and a loop that never ends when its condition is inverted."""

    def forward(self, x: Tensor) -> Any:
        n = 5
        while n > 1:
            n //= 2
        return (self.norm1 if random.random() > -1 else self.norm2)(self.conv1(x))


@pytest.mark.parametrize(
    ("kind", "pairs", "undecided", "decision"),
    [
        (Masked, {"conv2": "norm2"}, {"conv1"}, "it depends on the argument `mask`"),
        (ByIndex, {}, {"conv1", "conv2"}, "it depends on the argument `index`"),
        (Saying, {}, {"conv1", "conv2"}, "`helped` decides in line * of test_dataflow.py"),
        (Inheriting, {}, {"conv1", "conv2"}, "`helped` decides in line * of test_dataflow.py"),
        (Sampled, {}, {"conv1"}, "`Sampled.forward` decides in line * of test_dataflow.py"),
    ],
)
@pytest.mark.parametrize("how", ["symbolic", "example"])
def test_pair_that_another_call_may_part_is_undecided(
    kind: type[Net], pairs: dict[str, str], undecided: set[str], decision: str, how: str
) -> None:
    net = kind(in_order)
    given = (X, 0) if kind is ByIndex else X
    before = dict(vars(kind))
    for model in (net, nn.Sequential(net)):
        flow = follow(model, None if how == "symbolic" else given if model is net else X)
        start = "" if model is net else "0."
        assert flow.norm_of == {start + conv: start + norm for conv, norm in pairs.items()}
        assert flow.undecided == {start + conv for conv in undecided}
        if model is net:
            assert fnmatchcase(flow.norm_missing.get("conv1", ""), f"*{decision}*")
    assert vars(kind) == before
    assert type(net) is kind


class Configured(Net):
    """An object, a dict or a tuple of settings says how a list of two is to be indexed."""

    settings: Any

    def forward(self, x: Tensor) -> Any:
        index = self.settings.index if isinstance(self.settings, SimpleNamespace) else self.settings["index"]
        return [self.norm1, self.norm2][index](self.conv1(x))


class Named(Net):
    """An argument names convolutions, whose outputs one batch norm normalises together."""

    def __init__(self, flow: Any) -> None:
        super().__init__(flow)
        self.both = nn.BatchNorm2d(6)

    def forward(self, x: Tensor, names: tuple[str, ...] = ("conv1", "conv2")) -> Any:
        return self.both(torch.cat([getattr(self, name)(x) for name in names], 1))


@pytest.mark.parametrize("settings", [SimpleNamespace(index=0), {"index": 0}], ids=["object", "dict"])
def test_norm_chosen_by_settings_is_undecided(settings: Any) -> None:
    net = Configured(in_order)
    net.settings = settings
    flow = follow(net)
    assert flow.norm_of == {}
    assert flow.norm_missing["conv1"].endswith("it depends on the attribute `settings`")
    assert net.settings is settings


def test_order_of_a_concatenation_that_an_argument_turns_is_undecided() -> None:
    flow = follow(Named(in_order))
    assert flow.joined == {}
    assert flow.undecided == {"conv1", "conv2"}
    flow = follow(nn.Sequential(Named(in_order)))  # nothing gives it another argument
    assert flow.joined == {"0.both": ("0.conv1", "0.conv2")}


def test_norm_chosen_among_several_by_a_key_is_undecided() -> None:
    class Keyed(Net):
        def __init__(self) -> None:
            super().__init__(in_order)
            self.norms = nn.ModuleDict({key: nn.BatchNorm2d(3) for key in ("day", "night")})

        def forward(self, x: Tensor, keys: tuple[str, ...] = ("day",)) -> Any:
            return self.norms[keys[0]](self.conv1(x)), self.norm2(self.conv2(x))

    flow = follow(Keyed())
    assert flow.norm_of == {"conv2": "norm2"}
    assert flow.norm_missing["conv1"].startswith("batch norm `norms.day` is ")
    assert flow.undecided == {"conv1"}


def test_identity_between_is_seen_through() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Identity(), nn.BatchNorm2d(4))
    assert follow(net).norm_of == {"0": "3"}
    assert follow(nn.Sequential(Net(untraceable(in_order)), net), X).norm_of["1.0"] == "1.3"


def test_nothing_is_certain_in_a_network_that_does_not_trace_but_in_a_sequential_one() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in "ab"])
            self.dynamic = Net(untraceable(in_order))
            self.plain = Net(in_order)

        def forward(self, images: Tensor) -> Any:
            x = images
            for block in self.blocks:
                x = block(x)
            return self.plain(self.dynamic(x) if images.mean() > 0 else x)

    everywhere = {f"{part}.conv{i}": f"{part}.norm{i}" for part in ("dynamic", "plain") for i in "12"}
    everywhere |= {"blocks.0.0": "blocks.0.1", "blocks.1.0": "blocks.1.1"}
    found = follow(Outer())
    assert found.norm_of == {}
    assert found.obstacle.startswith("`Outer`: ")
    assert set(found.unknown) == everywhere.keys()
    assert follow(Outer(), X).norm_of == everywhere
    assert "dynamic.conv1" not in follow(Outer(), -X).called

    outer = Outer()
    found = follow(nn.Sequential(*outer.blocks, outer.dynamic, outer.plain))
    assert found.norm_of == {"0.0": "0.1", "1.0": "1.1", "3.conv1": "3.norm1", "3.conv2": "3.norm2"}
    assert found.obstacle.startswith("`2`: ")
    assert set(found.unknown) == {"2.conv1", "2.conv2"}


def test_what_leaves_a_traced_part_is_unknown_where_a_batch_norm_may_take_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
            self.head = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())

        def forward(self, x: Tensor) -> Any:
            return self.head(self.body(x)) if x.sum() != 0 else x

    assert follow(Outer()).unknown == ("body.2",)  # the first convolution's output is seen to go to a ReLU
    assert follow(Outer(), X).norm_of == {"body.2": "head.0"}


def test_example_input_may_be_a_tuple_or_keywords() -> None:
    class Two(Net):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
            assert scale is not None
            return self.norm1(self.conv1(x)) if scale.item() else x

    assert follow(Net(untraceable(in_order)), (X,)).norm_of == {"conv1": "norm1", "conv2": "norm2"}
    assert follow(Two(in_order), {"x": X, "scale": torch.tensor(1.0)}).norm_of == PAIR
    with pytest.raises(ValueError, match=r"cannot be evaluated on `example_input`: AssertionError"):
        follow(Two(in_order), X)


@pytest.mark.parametrize("wrap", [lambda flow: flow, untraceable], ids=["symbolic", "example"])
def test_network_stays_as_it_is(wrap: Any) -> None:
    class Stateful(Net):
        seen: Any = None

        def forward(self, x: Tensor) -> Any:
            self.seen = x
            return super().forward(x)

    net = Stateful(wrap(in_order))
    net.norm1.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    generator = torch.random.get_rng_state()
    follow(net, X)
    assert net.seen is None
    assert net.training
    assert not net.norm1.training
    assert torch.equal(generator, torch.random.get_rng_state())
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not net.conv1._forward_hooks


@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hook_on_the_value_between_parts_the_pair(kind: str) -> None:
    net = Net(in_order)
    if kind == "forward":
        net.conv1.register_forward_hook(lambda *_: None)
    else:
        net.norm1.register_forward_pre_hook(lambda *_: None)
    found = follow(net)
    assert found.norm_of == {"conv2": "norm2"}
    assert "hook" in found.norm_missing["conv1"]


def test_blocks_count_as_convolutions() -> None:
    net = nn.Sequential(ACBlock(3, 4, 3), nn.BatchNorm2d(4))
    assert follow(net).norm_of == {"0": "1"}
    assert follow(net, X).norm_of == {"0": "1"}


def test_layer_alone_is_called() -> None:
    assert follow(nn.Conv2d(3, 4, 3)).called == {""}
