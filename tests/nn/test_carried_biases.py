"""Biases without a place in the stock model: later layers take them up exactly, or there is an error or warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.swa_utils import AveragedModel

from acnet_pl.nn import FusionError, convert_to_acnet, fuse_model, stock_state_dict

Randomise = Callable[[nn.Module], nn.Module]
Difference = Callable[[nn.Module, nn.Module, Tensor], float]

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """A convolution without bias before a batch norm; subclasses put something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(4)
        self.more()

    def more(self) -> None:
        """Add layers."""

    def forward(self, x: Any) -> Any:
        return self.norm(self.pool(self.conv(x)))


class Two(Net):
    def more(self) -> None:
        self.other = nn.Conv2d(3, 4, 3)


class AddsInPlace(Two):
    def forward(self, x: Any) -> Any:
        y = self.other(x)
        y.add_(self.conv(x))
        return self.norm(y)


class PlusEquals(Two):
    def forward(self, x: Any) -> Any:
        y = skip = self.other(x)
        y += self.conv(x)
        return self.norm(skip)


class PlusEqualsInList(Two):
    def forward(self, x: Any) -> Any:
        y = self.other(x)
        kept = [nn.functional.dropout(y, 0.5, False)]
        y += self.conv(x)
        return self.norm(kept[0])


class Plus(Two):
    def forward(self, x: Any) -> Any:
        y = self.other(x)
        z = y + self.conv(x)
        return self.norm(z) + y


class KeepsDimensions(Two):
    def more(self) -> None:
        self.other = nn.Conv2d(4, 2, 1)

    def forward(self, x: Any) -> Any:
        return self.other(self.conv(x).mean((2, 3), keepdim=True))


class SameOfOne(Two):
    def more(self) -> None:
        self.other = nn.Conv2d(4, 4, 1, padding="same")

    def forward(self, x: Any) -> Any:
        return self.norm(self.other(self.conv(x)))


class PaddingOff(SameOfOne):
    def more(self) -> None:
        self.other = nn.Conv2d(4, 4, 3)
        self.other.padding = 0  # type: ignore[assignment]


class Delegates(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class HalfOf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class ComputedBias(Net):
    def more(self) -> None:
        self.other = nn.Conv2d(4, 4, 1)
        register_parametrization(self.other, "bias", HalfOf())

    def forward(self, x: Any) -> Any:
        return self.norm(self.other(self.conv(x)))


EXACT: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: kind for kind in (AddsInPlace, PlusEquals, PlusEqualsInList, Plus, KeepsDimensions, SameOfOne)},
    "DataParallel": lambda: nn.DataParallel(Net()),
    "AveragedModel": lambda: AveragedModel(Net()),
    "wrapper of wrapper": lambda: Delegates(Delegates(Net())),
}


def acnet_and_stock(build: Callable[[], nn.Module], randomise: Randomise) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    acnet = randomise(convert_to_acnet(build().double(), IMAGES)).eval()
    stock = build().double().eval()
    stock.load_state_dict(stock_state_dict(acnet))
    return acnet, stock


@pytest.mark.parametrize("name", ["DataParallel", "AveragedModel", "wrapper of wrapper"])
def test_wrapped_network_needs_no_example(name: str, randomise: Randomise, difference: Difference) -> None:
    model = randomise(EXACT[name]().double()).eval()
    fused = fuse_model(convert_to_acnet(model, init="preserve"))
    assert difference(model, fused, IMAGES) <= 1e-12


@pytest.mark.parametrize("name", EXACT)
def test_bias_is_taken_up_exactly(name: str, randomise: Randomise, difference: Difference) -> None:
    acnet, stock = acnet_and_stock(EXACT[name], randomise)
    assert difference(acnet, stock, IMAGES) <= 1e-12


class ChangesPart(Two):
    def forward(self, x: Any) -> Any:
        y = self.other(x)
        y[:, :2].add_(self.conv(x)[:, :2])
        return self.norm(y)


class ViewOfChanged(Two):
    def more(self) -> None:
        super().more()
        self.linear = nn.Linear(144, 2)

    def forward(self, x: Any) -> Any:
        y = self.other(x)
        view = y.flatten(1)
        y += self.conv(x)
        return self.norm(y).sum() + self.linear(view)


class Unused(Two):
    def forward(self, x: Any) -> Any:
        self.conv(x)
        return self.norm(self.other(x))


class ReadsMean(Net):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + self.norm.running_mean.sum()  # type: ignore[union-attr, operator]


class ReadsBias(Net):
    def more(self) -> None:
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.linear(self.conv(x).mean((2, 3))) + self.linear.bias


class ReadsParameters(Net):
    def more(self) -> None:
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: Any) -> Any:
        y = self.other(self.conv(x))
        return y.relu() + F.conv2d(x[:, :1].expand(-1, 4, -1, -1), self.other.weight, self.other.bias)[:, :, 2:, 2:]


class Resets(Net):
    def forward(self, x: Any, reset: bool = False) -> Any:
        if reset:
            self.norm.reset_running_stats()
        return super().forward(x)


class SwitchesDropoutOn(Net):
    def more(self) -> None:
        self.drop = nn.Dropout()

    def forward(self, x: Any) -> Any:
        self.drop.train()
        return self.norm(self.drop(self.conv(x)))


class PadsPool(Net):
    def more(self) -> None:
        self.average = nn.AvgPool2d(2)

    def forward(self, x: Any, pad: int = 0) -> Any:
        self.average.padding = pad
        return self.norm(self.average(self.conv(x)))


class Transforms(Net):
    def forward(self, x: Any, transform: Any = None) -> Any:
        y = self.conv(x)
        if transform:
            y = transform(y)
        return self.norm(y)


class SetsMomentum(Net):
    def forward(self, x: Any, momentum: float = 0.5) -> Any:
        self.norm.momentum = momentum
        return super().forward(x)


class OuterSum(Two):
    def more(self) -> None:
        self.other = nn.Conv2d(3, 4, 3, bias=False)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Any) -> Any:
        return self.last(self.conv(x).mean((2, 3), keepdim=True) + self.other(x).mean((2, 3)))


class Gated(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return super().forward(x).chunk(2, 1)[0]


class GatedBeside(Net):
    def more(self) -> None:
        self.gated, self.norm = Gated(3, 4, 3), nn.BatchNorm2d(6)

    def forward(self, x: Any) -> Any:
        return self.norm(torch.cat([self.gated(x), self.conv(x)], 1))


class HookedBeside(Two):
    def more(self) -> None:
        self.other, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(6)
        self.other.register_forward_hook(lambda module, args, out: out[:, :2])

    def forward(self, x: Any) -> Any:
        return self.norm(torch.cat([self.other(x), self.conv(x)], 1))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(3, 2, 3, bias=index != 2) for index in range(4)])
        self.task = 2

    def forward(self, x: Any) -> Any:
        return self.heads[self.task](x)


class PatchedPool(Net):
    def more(self) -> None:
        self.pool.forward = torch.tanh  # type: ignore[method-assign, assignment]


class HookedRoot(Net):
    def more(self) -> None:
        self.register_forward_hook(lambda module, args, out: out + module.conv(args[0]).mean())


class TakesItsOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        return self.conv(self.conv(x)).relu()


class Halves(Delegates):
    def forward(self, *args: Any) -> Any:
        return self.module(*args) / 2


class Sometimes(Delegates):
    again = False

    def forward(self, *args: Any) -> Any:
        return self.module(*args).relu() if self.again else self.module(*args)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "part changed in place": (ChangesPart, "`conv`: .*change what `getitem"),
    "view of what is changed in place": (ViewOfChanged, "`conv`: .*`iadd` changes a tensor in place of which there"),
    "unused": (Unused, "`conv`: .*what becomes of the output of `conv` is not seen"),
    "mean read": (ReadsMean, "`conv`: .*reads or sets tensors or attributes of `norm`"),
    "bias read": (ReadsBias, "`conv`: .*reads or sets tensors or attributes of `linear`"),
    "weights read": (ReadsParameters, "`conv`: .*reads or sets tensors or attributes of `other`"),
    "statistics reset": (Resets, "`conv`: .*reads or sets tensors or attributes of `norm`"),
    "dropout on": (SwitchesDropoutOn, "`conv`: .*the code of the network changes `drop.training`"),
    "pooling padded by an argument": (PadsPool, "`conv`: .*changes `average.padding` .*this happens at some calls"),
    "function given by an argument": (Transforms, "`conv`: .*what becomes of the output of `conv` is not seen"),
    "attribute set": (SetsMomentum, "`conv`: .*the code of the network changes `norm.momentum`"),
    "outer sum": (OuterSum, "`conv`, `other`: .*an addition may broadcast it"),
    "convolution with a forward of its own beside it": (GatedBeside, "`conv`: .*with a value of unknown size"),
    "hooked convolution beside it": (HookedBeside, "`conv`: .*with a value of unknown size"),
    "padding that is not a pair": (PaddingOff, "`conv`: .*`other` is in the way: its attribute padding was set to 0"),
    "computed bias": (ComputedBias, "`conv`: .*`other` is in the way: its bias is computed"),
    "patched forward": (PatchedPool, "`conv`: .*`pool` has a hook or a forward of its own"),
    "hook of the whole network": (HookedRoot, "`conv`: .*what HookedRoot does besides its forward: it has a hook"),
    "own output padded": (TakesItsOutput, "`conv` pads its input with zeros and takes its own output back"),
    "wrapper that computes": (lambda: Halves(Net()), "`module.conv`: .*torch.fx does not trace"),
    "wrapper that may compute": (lambda: Sometimes(Net()), "`module.conv`: .*torch.fx does not trace"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_doubt_is_an_error_that_names_the_block(name: str, randomise: Randomise) -> None:
    build, message = REFUSED[name]
    with pytest.raises(FusionError, match=message):
        acnet_and_stock(build, randomise)


def test_block_that_is_not_called_now_is_an_error(randomise: Randomise) -> None:
    acnet = randomise(convert_to_acnet(Heads().double())).eval()
    acnet.task = 0  # type: ignore[assignment]
    with pytest.raises(FusionError, match=r"`heads\.2`: .*no call of it was traced"):
        stock_state_dict(acnet)


class DropsOut(Net):
    def more(self) -> None:
        self.drop = nn.Dropout()

    def forward(self, x: Any) -> Any:
        return self.norm(self.drop(self.conv(x)))


class CallsDropout(Net):
    def forward(self, x: Any) -> Any:
        return self.norm(F.dropout(self.conv(x), 0.5, self.training))


def densenet() -> nn.Module:
    network: nn.Module = torchvision.models.DenseNet(8, (2, 2), 16, drop_rate=0.2, num_classes=5)
    return network


@pytest.mark.parametrize("build", [DropsOut, CallsDropout, densenet])
def test_dropout_on_the_way_is_exact_in_eval_mode_and_named(
    build: Callable[[], nn.Module], randomise: Randomise, difference: Difference
) -> None:
    with pytest.warns(UserWarning, match=r"passes the dropout `.*but not with a dropout alone switched on") as warned:
        acnet, stock = acnet_and_stock(build, randomise)
    assert {warning.filename for warning in warned} == {__file__}, "a warning names the line that called"
    assert difference(acnet, stock, torch.randn(1, 3, 32, 32).double()) <= 1e-12


class Twice(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = self.alias = net
        self.first = net.get_submodule("conv")

    def forward(self, x: Any) -> Any:
        return self.net(x)


class Renames(Twice):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {f"renamed.{key}": value for key, value in super().state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict({key.removeprefix("renamed."): value for key, value in state_dict.items()})


class Hooked(Twice):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_state_dict_post_hook(self.drop)
        self.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())

    @staticmethod
    def drop(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        """Leave out the second names of the tensors."""
        for key in [key for key in state if key.startswith("alias.")]:
            del state[key]


@pytest.mark.parametrize("wrap", [Twice, Renames, Hooked])
def test_state_dict_of_a_wrapper_has_its_own_keys(
    wrap: Callable[[nn.Module], nn.Module], randomise: Randomise, difference: Difference
) -> None:
    torch.manual_seed(0)
    wrapper = wrap(randomise(convert_to_acnet(Net().double())).eval())
    state = stock_state_dict(wrapper)
    stock = wrap(Net().double().eval())
    assert state.keys() == stock.state_dict().keys()
    stock.load_state_dict(state)
    assert difference(wrapper, stock, IMAGES) <= 1e-12
