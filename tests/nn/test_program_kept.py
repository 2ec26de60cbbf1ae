"""Tracing leaves what is the user's as it was: random numbers, lists that hooks fill, profilers, examples."""

from __future__ import annotations

import cProfile
import gc
import importlib
import os
import random
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model
from acnet_pl.nn.surgery import alive
from acnet_pl.nn.surgery.functions import reachable

OWN = torch.Generator().manual_seed(0)
NESTED: dict[str, list[Any]] = {"seen": []}
SETTINGS = ModuleType("settings_of_a_test")
SEEN: list[Any] = []


class Settings:
    last: Any = None


class Draws(Pair):
    """Noise of a fixed shape, drawn anew at each call."""

    def forward(self, x: Tensor) -> Any:
        noise = torch.randn(1, dtype=x.dtype) + torch.rand(1, generator=OWN, dtype=x.dtype)
        return self.norm(self.conv(x)) * random.uniform(0.9, 1.1) + noise * np.random.rand()  # noqa: NPY002


class Keeps(Pair):
    def forward(self, x: Tensor, memo: list[Any] = []) -> Any:  # noqa: B006
        y = self.norm(self.conv(x))
        NESTED["seen"].append(y)
        SETTINGS.last = y  # type: ignore[attr-defined]
        Settings.last = y
        memo.append(y)
        return y


def draw() -> list[float]:
    torch_own = [float(torch.rand(1)), float(torch.rand(1, generator=OWN))]
    return [*torch_own, random.random(), float(np.random.rand())]  # noqa: NPY002


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_random_numbers_go_on_as_if_nothing_had_been_traced(example: Tensor | None, randomise: Randomise) -> None:
    model = randomise(Draws().double()).eval()

    def seed() -> None:
        torch.manual_seed(1)
        OWN.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    fused = fuse_model(model, example)
    assert draw() == expected
    seed()
    wanted = model(X)
    seed()
    torch.testing.assert_close(fused(X), wanted)
    assert isinstance(fused.norm, nn.Identity)


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_what_code_and_hooks_collect_stays(example: Tensor | None, randomise: Randomise) -> None:
    mine: list[Any] = []
    model = randomise(Keeps().double()).eval()
    hooked = randomise(nn.Sequential(Pair(), nn.ReLU()).double()).eval()
    hooked.get_submodule("1").register_forward_hook(lambda module, args, output, mine=mine: mine.append(output))
    hooked.get_submodule("1").register_forward_hook(lambda module, args, output: SEEN.append(output))
    for network in (model, hooked):
        fuse_model(network, example)
        convert_to_acnet(network, example, init="preserve")
    assert not [*mine, *SEEN, *NESTED["seen"]]
    assert not hasattr(SETTINGS, "last")
    assert Settings.last is None
    assert Keeps.forward.__defaults__ == ([],)


def test_no_hook_is_left_that_pytorch_asks_about() -> None:
    fuse_model(Pair().double().eval(), X)
    assert not torch.nn.modules.module._has_any_global_hook()


def test_a_profiler_goes_on() -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    fuse_model(Pair().eval())
    random.gauss(0, 1)
    profiler.disable()
    profiler.create_stats()
    assert any(name == "gauss" for _, _, name in profiler.stats)  # type: ignore[attr-defined]


@pytest.mark.parametrize("frozen", [False, True])
def test_objects_that_a_program_has_frozen_stay_out_of_garbage_collection(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alive._SetAside, "by_others", False)  # before any other call of this process
    gc.unfreeze()
    if frozen:
        gc.freeze()
    count = gc.get_freeze_count()
    try:
        fuse_model(Pair().eval())
        assert gc.get_freeze_count() == count
    finally:
        gc.freeze()  # as the tests' own start has it


class Batch:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class TakesObject(Pair):
    def forward(self, batch: Batch) -> Any:  # type: ignore[override]
        return self.norm(self.conv(batch.x.mul_(2)))


def test_an_example_that_is_an_object_stays(randomise: Randomise) -> None:
    example = Batch(X.clone())
    fused = fuse_model(randomise(TakesObject().double()).eval(), example)
    assert torch.equal(example.x, X)
    assert isinstance(fused.norm, nn.Identity)


@pytest.mark.parametrize("value", [np.arange(3), [torch.arange(3), torch.arange(2)], (np.eye(2), np.eye(2))], ids=repr)
def test_attributes_without_one_answer_to_equality(value: Any, randomise: Randomise) -> None:
    class Anchored(Pair):
        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x)) + len(self.anchors)  # type: ignore[arg-type]

    model = randomise(Anchored().double()).eval()
    model.anchors = value
    torch.testing.assert_close(fuse_model(model)(X), model(X))
    torch.testing.assert_close(convert_to_acnet(model, init="preserve").eval()(X), model(X))


def test_hook_with_a_value_of_its_own_prevents_nothing(randomise: Randomise) -> None:
    model = randomise(nn.Sequential(Pair(), nn.ReLU()).double()).eval()
    seen: dict[str, Tensor] = {}
    hook: Callable[..., None] = lambda module, args, output, name="part": seen.update({name: output})  # noqa: E731
    model.get_submodule("0").register_forward_hook(hook)
    fused = fuse_model(model)
    assert isinstance(fused.get_submodule("0.norm"), nn.Identity)
    expected = model(X)
    fused(X)
    torch.testing.assert_close(seen["part"].relu(), expected)


@pytest.mark.parametrize(("name", "value"), [("stride", (2, 2)), ("dilation", (2, 2)), ("padding_mode", "circular")])
def test_shape_of_a_block_cannot_change(name: str, value: Any) -> None:
    block: Any = convert_to_acnet(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))[0]  # type: ignore[index]
    setattr(block, name, getattr(block, name))
    with pytest.raises(AttributeError, match=f"the {name} of a ACBlock cannot change .* on the convolution before"):
        setattr(block, name, value)


class Switched(Pair):
    """Does something outside the network, or to all of PyTorch, on a path that is not taken."""

    on = False

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = [act]  # no attribute that is copied

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.on:
            self.act[0]()
            y = y * 2
        return self.norm(y)


class SwitchedOnData(Switched):
    """The same, in code that torch.fx does not trace."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) if x.isfinite().all() else x


def taken(network: Any) -> Tensor:
    """What a network computes on the other path."""
    before = network.act[0]
    network.on, network.act[0] = True, lambda: None
    try:
        return network(X)  # type: ignore[no-any-return]
    finally:
        network.on, network.act[0] = False, before


def state_of_the_program() -> list[Any]:
    return [
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        dict(os.environ),
    ]


@pytest.mark.parametrize(("kind", "example"), [(Switched, None), (Switched, X), (SwitchedOnData, X)])
def test_a_path_that_is_not_taken_acts_on_nothing(
    kind: type[Switched], example: Tensor | None, randomise: Randomise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hit, before = tmp_path / "written", list[bool](), state_of_the_program()
    monkeypatch.setattr(sys, "breakpointhook", lambda: hit.append(True))
    acts: dict[str, Callable[[], object]] = {
        "writes": lambda: file.write_text("x"),
        "makes a folder": lambda: (tmp_path / "folder").mkdir(),
        "starts a process": lambda: os.system(f"touch {file}"),
        "stops in a debugger": breakpoint,
        "ends the program": lambda: sys.exit(3),
        "sets a variable": lambda: os.environ.update(ACNET_PL_TEST="1"),
        "sets the type": lambda: torch.set_default_dtype(torch.float64),
        "switches gradients off": lambda: torch.set_grad_enabled(False),
        "is deterministic": lambda: torch.use_deterministic_algorithms(True),
    }
    for what, act in acts.items():
        model = randomise(kind(act).double()).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [fuse_model(model, example), convert_to_acnet(model, example, init="preserve").eval()]
        for network in found:
            torch.testing.assert_close(network(X), model(X), msg=what)
            if what != "ends the program":  # after which nothing is computed
                torch.testing.assert_close(taken(network), taken(model), msg=what)
        assert not [*tmp_path.iterdir()], what
        assert not hit, what
        assert state_of_the_program() == before, what


def test_what_runs_beside_it_may_write(randomise: Randomise, tmp_path: Path) -> None:
    """A logger, say, in another thread; and a path may import what is not imported yet, which may make folders."""
    (tmp_path / "imported_on_a_path.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\nvalue = 1\n")
    writer = ThreadPoolExecutor(1)

    def write_beside() -> None:
        writer.submit((tmp_path / "beside").write_text, "x").result()

    def import_now() -> None:
        importlib.import_module("imported_on_a_path")

    with patch.object(sys, "path", [str(tmp_path), *sys.path]), writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for act in (write_beside, import_now):
            fuse_model(randomise(Switched(act).double()).eval())
    assert (tmp_path / "beside").read_text() == "x"
    assert (tmp_path / "made").is_dir()
    assert sys.modules.pop("imported_on_a_path").value == 1
    (tmp_path / "afterwards").write_text("x")


def conv() -> None:
    """Has the name of a layer of `Switched`, whose code does not call it."""


def helper(y: Tensor) -> Tensor:
    return y


def test_of_globals_only_those_that_code_loads_are_followed() -> None:
    class Helped(Switched):
        def forward(self, x: Tensor) -> Any:
            return helper(super().forward(x))

    assert {name for depth, name in reachable(Helped(lambda: None)) if depth == -1} == {"helper"}
