"""Random small networks: what is made of them equals them at every call, or is an error that says why not.

`python tests/nn/test_random_networks.py FIRST LAST` tries the networks of these seeds and counts what became of them.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections import Counter
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import FusionError, convert_to_acnet, explicit_branches, fuse_model, stock_state_dict

CHANNELS = 4


class OtherName(_BatchNorm):
    """A batch norm by another name."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def make_norm(rng: random.Random) -> nn.Module:
    """A norm of a random kind with the values of a trained one."""
    kind = rng.choice([nn.BatchNorm2d] * 4 + [nn.SyncBatchNorm, OtherName, BatchNormAct2d, nn.GroupNorm])
    if kind is nn.GroupNorm:
        return nn.GroupNorm(2, CHANNELS)
    affine, track = rng.random() > 0.2, rng.random() > 0.05
    return trained(kind(CHANNELS, affine=affine, track_running_stats=track))


def trained(norm: _BatchNorm) -> _BatchNorm:
    """Give a batch norm the values of a trained one."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return norm


def make_conv(rng: random.Random) -> nn.Conv2d:
    """A convolution that keeps the size and number of channels."""
    k = rng.choice([1, 3, 3, 3, 5])
    mode: Any = rng.choice(["zeros", "zeros", "zeros", "circular"])
    groups, bias = rng.choice([1, 1, 2, 4]), rng.random() > 0.5
    if rng.random() < 0.1:
        return Conv2dSame(CHANNELS, CHANNELS, k, groups=groups, bias=bias)
    padding: Any = "same" if rng.random() < 0.1 else k // 2
    return nn.Conv2d(CHANNELS, CHANNELS, k, padding=padding, groups=groups, bias=bias, padding_mode=mode)


def make_tower(rng: random.Random, rank: int) -> nn.Module:
    """Layers and batch norms over values of another rank: 2 for vectors, 3 and 5 for 1-D and 3-D convolutions."""
    layer: Any = {2: nn.Linear, 3: nn.Conv1d, 5: nn.Conv3d}[rank]
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[rank]
    layers: list[nn.Module] = []
    for _ in range(rng.randint(1, 3)):
        bias = {"bias": rng.random() > 0.5}
        one = layer(CHANNELS, CHANNELS, **bias, **({} if rank == 2 else {"kernel_size": 1}))
        pair = [one, trained(kind(CHANNELS))]
        rng.shuffle(pair)
        layers += [*pair, nn.ReLU()][: rng.choice([2, 3])]
    return nn.Sequential(*layers)


def make_network(seed: int) -> nn.Module:
    """A network whose forward is random source code; every value in it has the shape of its input."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    members: dict[str, Any] = {}
    convs: list[str] = []
    norms: list[str] = []
    values, lines = ["x"], list[str]()

    def new(start: str, member: Any) -> str:
        name = f"{start}{len(members)}"
        members[name] = member
        (convs if start == "conv" else norms if start == "norm" else []).append(name)
        return name

    def conv() -> str:
        return rng.choice(convs) if convs and rng.random() < 0.15 else new("conv", make_conv(rng))

    def norm() -> str:
        return rng.choice(norms) if norms and rng.random() < 0.1 else new("norm", make_norm(rng))

    for step in range(rng.randint(2, 6)):
        x, out = rng.choice(values[-2:]), f"v{step}"
        kind = rng.randrange(25)
        if kind < 5:
            lines += [f"{out} = self.{norm()}(self.{conv()}({x}))"]
        elif kind == 5:
            block = nn.Sequential(
                make_conv(rng), make_norm(rng), nn.ReLU(), make_conv(rng), nn.Identity(), make_norm(rng)
            )
            lines += [f"{out} = self.{new('block', block)}({x})"]
        elif kind == 6:
            lines += [f"{out} = self.{conv()}({x})", f"{out} = self.{norm()}({out}) + {out}.mean()"]
        elif kind == 7:
            lines += [f"{out} = self.{conv()}({x})", f"if self.{new('flag', rng.random() > 0.5)}: {out} = {out} * 2"]
            lines += [f"{out} = self.{norm()}({out})"]
        elif kind == 8:
            bank = new("bank", nn.ModuleList(make_norm(rng) for _ in range(2)))
            index = rng.choice(["index", f"self.{new('chosen', 0)}", "int(switch)"])
            lines += [f"{out} = self.{bank}[{index}](self.{conv()}({x}))"]
        elif kind == 9:
            lines += [f"{out} = self.{conv()}({x})", f"if switch: return {out}", f"{out} = self.{norm()}({out}).relu()"]
        elif kind == 10:
            lines += [f"{out} = {rng.choice(values)} + {x}.tanh()"]
        elif kind == 11:
            lines += [f"self.kept = self.{conv()}({x})", f"{out} = self.{norm()}(self.kept)"]
        elif kind == 12:
            lines += [f"{out} = self.{norm()}({x} + self.{conv()}({x}))"]
        elif kind == 13:
            lines += [f"{out} = self.{norm()}({x})", f"{out} = self.{conv()}({out})"]
        elif kind == 14:
            halves = [nn.Conv2d(CHANNELS // 2, CHANNELS // 2, k, padding=k // 2) for k in (1, 3)]
            named = [new("half", half) for half in rng.sample(halves, 2)]
            lines += [f"a, b = {x}.chunk(2, 1)", f"{out} = torch.cat([self.{named[0]}(a), self.{named[1]}(b)], 1)"]
            lines += [rng.choice([f"{out} = self.{norm()}({out})", f"{out} = self.{norm()}({out}) + {out}"])]
        elif kind == 15:
            tower = new("tower", make_tower(rng, 2))
            lines += [f"{out} = {x} * self.{tower}({x}.mean((2, 3)))[:, :, None, None]"]
        elif kind == 16:
            tower = new("tower", make_tower(rng, 3))
            lines += [f"{out} = self.{tower}({x}.flatten(2)).reshape({x}.shape)"]
        elif kind == 17:
            tower = new("tower", make_tower(rng, 5))
            lines += [f"{out} = self.{tower}({x}[:, :, None])[:, :, 0]"]
        elif kind == 18:
            settings = new("config", SimpleNamespace(flip=rng.random() > 0.5))
            lines += [f"{out} = self.{conv()}({x})", f"if self.{settings}.flip: {out} = -{out}"]
            lines += [f"{out} = self.{norm()}({out})"]
        elif kind == 19:
            extra = new("factor", rng.choice([None, 0.5]))
            lines += [f"{out} = self.{conv()}({x})", f"if self.{extra} is not None: {out} = {out} * self.{extra}"]
            lines += [f"{out} = self.{norm()}({out})"]
        elif kind == 20:
            scale = new("factor", rng.choice([1.0, 2.0]))
            lines += [f"{out} = self.{conv()}({x})", f"if self.{scale} > 1.5: {out} = {out} * self.{scale}"]
            lines += [f"{out} = self.{norm()}({out})"]
        elif kind == 21:
            table = new("table", nn.ModuleDict({key: make_conv(rng) for key in ("usual", "raw")}))
            lines += [f"{out} = self.{norm()}(self.{table}[self.{new('word', 'usual')}]({x}))"]
        elif kind == 22:
            lines += [f"for module in [self.{conv()}, self.{norm()}]: {x} = module({x})", f"{out} = {x}"]
        elif kind == 23:
            lines += [f"{out} = self.{norm()}({x})", f"{x} = {x}.mul_(2)" * rng.choice([0, 1]) or "pass"]
            lines += [f"{out} = self.{conv()}({out})"]
        else:
            word = new("word", "usual")
            lines += [f"{out} = self.{conv()}({x})", f"{out} = self.{norm()}({out}) if self.{word} != 'raw' else {out}"]
        values.append(out)
    lines += [f"return {values[-1]}"]
    source = "def forward(self, x, index=0, switch=False):\n" + "".join(f"    {line}\n" for line in lines)
    space: dict[str, Any] = {"torch": torch}
    exec(source, space)
    space["forward"].__module__ = "random_network"
    network: nn.Module = type("Network", (nn.Module,), {"forward": space["forward"], "__doc__": source})()
    for name, member in members.items():
        setattr(network, name, member)
    plain = [network.get_submodule(name) for name in convs]
    if len(plain) > 1 and rng.random() < 0.2:
        one, other = rng.sample(plain, 2)
        if one.weight.shape == other.weight.shape:
            other.weight = one.weight
    if rng.random() < 0.1:
        hooked = network.get_submodule(rng.choice(convs + norms)) if convs + norms else network
        hooked.register_forward_hook(lambda _, args, output: output * 1.5)
    return network.double().eval()


def outputs(network: nn.Module) -> list[Any]:
    """What a network gives for several inputs, arguments and values of its attributes."""
    found = []
    attributes = [name for name in vars(network) if name.startswith(("flag", "chosen", "word", "config", "factor"))]
    usual = {name: vars(network)[name] for name in attributes}
    generator = torch.Generator().manual_seed(0)
    for number, (index, switch, turned) in enumerate(product((0, 1), (False, True), (None, *attributes))):
        if turned is not None:
            setattr(network, turned, turned_to(usual[turned]))
        x = torch.randn(2, CHANNELS, 7, 7, dtype=torch.float64, generator=generator) * (1 + number % 3)
        with torch.no_grad(), explicit_branches(network):
            found.append(network(x.clone(), index, switch))
            found.append(vars(network).get("kept"))
        for name, value in usual.items():
            setattr(network, name, value)
    return found


def turned_to(value: Any) -> Any:
    """Another value for an attribute."""
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(flip=not value.flip)
    if value is None or isinstance(value, float):
        return 2.0 if value == 1.0 else 1.0 if value == 2.0 else None if value else 0.5
    return {bool: not value, int: 1, str: "raw"}[type(value)]


def differ(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(outputs(a), outputs(b), strict=True)
    return not all(x is y is None or torch.allclose(x, y, rtol=1e-9, atol=1e-9) for x, y in pairs)


def try_network(seed: int) -> dict[str, str]:
    """What became of a network: for each thing that is made of it "equal", "refused" or what is wrong."""
    network = make_network(seed)
    found: dict[str, str] = {}

    def attempt(what: str, make: Any, original: nn.Module) -> Any:
        try:
            made = make()
        except (FusionError, ValueError):
            found[what] = "refused"
            return None
        except Exception as error:
            found[what] = f"{type(error).__name__}: {error}"
            return None
        found[what] = "different" if differ(original, made) else "equal"
        return made

    def stock() -> nn.Module:
        made = copy.deepcopy(network)
        made.load_state_dict(stock_state_dict(acnet))
        return made

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt("fuse", lambda: fuse_model(network), network)
        acnet = attempt("convert", lambda: convert_to_acnet(network, init="preserve"), network)
        if acnet is not None:
            for norm in acnet.modules():
                if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                    norm.running_mean.normal_(0, 0.3)
            attempt("fuse the acnet", lambda: fuse_model(acnet), acnet)
            attempt("stock", stock, acnet)
    return found


@pytest.mark.parametrize("first", range(0, 18, 6))
def test_random_networks(first: int) -> None:
    for seed in range(first, first + 6):
        found = try_network(seed)
        wrong = {what: how for what, how in found.items() if how not in ("equal", "refused")}
        assert not wrong, f"network {seed}: {wrong}\n{make_network(seed).__doc__}"


if __name__ == "__main__":
    counts: Counter[str] = Counter()
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        for what, how in try_network(seed).items():
            counts[f"{what}: {how}"] += 1
            if how not in ("equal", "refused"):
                print(f"network {seed}, {what}: {how}", flush=True)
        if seed % 100 == 99:
            print(seed + 1, dict(counts), flush=True)
    print(dict(counts), flush=True)
