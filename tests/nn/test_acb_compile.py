"""The block under PyTorch's transformations: compile, export, fx, functional transforms, autocast, formats, dtypes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import ACBlock, explicit_branches, keep_fused
from acnet_pl.nn.scale import ChannelScale

OPTIONS: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": 1, "branch_norm": False},
    {"padding": 1, "branch_norm": "scale", "gamma_init": 0.5},
    {"padding": 1, "statistics_share": 0.5},
    {"padding": (0, 2), "position": "border", "dilation": 2, "padding_mode": "reflect", "groups": 2},
]


def make(**options: Any) -> ACBlock:
    torch.manual_seed(0)
    block = ACBlock(4, 6, 3, **options)
    for norm in block.modules():
        if isinstance(norm, _BatchNorm):
            norm.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in norm.state_dict().items()})
    return block


X = torch.randn(4, 4, 7, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(options: dict[str, Any], training: bool) -> None:
    torch.compiler.reset()
    eager = make(**options).train(training)
    block = copy.deepcopy(eager)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for _ in range(2):  # the second call after a training step has changed parameters and statistics
        for module in (eager, block):
            module.zero_grad()
        out, expected = compiled(X), eager.forward_branches(X)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        for y in (out, expected):
            torch.autograd.backward(y.square().sum())
        for ours, theirs in zip(block.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(dict(block.named_buffers()), dict(eager.named_buffers()))
        with torch.no_grad():
            for module in (eager, block):
                for parameter in module.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=1e-3)


def test_compiled_block_follows_mode_and_explicit_branches() -> None:
    torch.compiler.reset()
    block = make(padding=1).eval()
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    with torch.no_grad():
        fused = compiled(X)
        with explicit_branches(block):
            explicit = compiled(X)
        assert torch.equal(explicit, block.forward_branches(X))
        assert not torch.equal(explicit, fused)  # rounded differently, so it was computed differently
        torch.testing.assert_close(explicit, fused, rtol=1e-4, atol=1e-5)
        block.train()
        trained = compiled(X)
        assert not torch.allclose(trained, fused)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    torch.compiler.reset()
    block = make(padding=1).eval()
    compiled = torch.compile(block, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), block.forward_branches(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "strict"), [*((options, False) for options in OPTIONS), (OPTIONS[0], True), (OPTIONS[3], True)]
)
@pytest.mark.parametrize("training", [True, False])
def test_exports(options: dict[str, Any], training: bool, strict: bool) -> None:
    block = make(**options).train(training)
    size = len(X) if training and "statistics_share" in options else torch.export.Dim("batch", min=2, max=64)
    dynamic = ({0: size},)
    program = torch.export.export(copy.deepcopy(block), (X,), dynamic_shapes=dynamic, strict=strict)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    other = torch.randn(size if isinstance(size, int) else 5, 4, 7, 7)
    torch.testing.assert_close(loaded(other), block.forward_branches(other), rtol=1e-4, atol=1e-5)


def test_exports_the_parameters_and_not_a_kept_kernel() -> None:
    block = make(padding=1).eval()
    with torch.no_grad(), keep_fused(block):
        block(X)
        program = torch.export.export(block, (X,))
    assert {"square.weight", "square_norm.running_var"} <= set(program.state_dict)
    module = program.module()
    module.load_state_dict({name: t * 2 for name, t in program.state_dict.items()})
    block.load_state_dict({name: t * 2 for name, t in block.state_dict().items()})
    torch.testing.assert_close(module(X), block.forward_branches(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_traces_symbolically_into_its_branches(options: dict[str, Any], training: bool) -> None:
    block = make(**options).train(training)
    with torch.no_grad():
        block(X)
    if training and "statistics_share" in options:
        with pytest.raises(RuntimeError, match=r"statistics_share.*model\.eval\(\)"):
            torch.fx.symbolic_trace(nn.Sequential(block))
        return
    graph = torch.fx.symbolic_trace(copy.deepcopy(nn.Sequential(block)))
    targets = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    layers = [name for name, module in block.named_children() if not isinstance(module, ChannelScale)]
    assert targets == [f"0.{name}" for name in layers]  # a scale is a multiplication
    torch.testing.assert_close(graph(X), block.forward_branches(X))


@pytest.mark.filterwarnings("ignore:`torch.jit")  # on its way out, but still in use
@pytest.mark.parametrize("options", OPTIONS)
def test_jit_trace_of_the_evaluated_block(options: dict[str, Any]) -> None:
    block = make(**options).eval()
    with torch.no_grad():
        traced = torch.jit.trace(block, X)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(X[:1]), block.forward_branches(X[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_functional_call_and_gradients_of_functions(options: dict[str, Any], training: bool) -> None:
    block = make(**options).double().train(training)
    x = X.double()
    with torch.no_grad():
        block.eval()(x)
    block.train(training)
    other = {name: torch.rand_like(p) for name, p in block.named_parameters()}
    buffers = {name: b.clone() for name, b in block.named_buffers()}
    reference = copy.deepcopy(block)
    reference.load_state_dict(other, strict=False)
    reference.explicit = True
    reference(x).square().sum().backward()

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(block, {**parameters, **buffers}, (x,)).square().sum()  # type: ignore[no-any-return]

    with torch.no_grad():  # torch.func.grad differentiates all the same, and a kept kernel would be wrong
        found = grad(loss)(other, buffers)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # which jvp itself uses
def test_functions_leave_a_sound_kept_kernel() -> None:
    block = make(padding=1).eval().requires_grad_(False)

    def total(x: Tensor) -> Tensor:
        return block(x).sum()  # type: ignore[no-any-return]

    expected = torch.autograd.grad(total(x := X.clone().requires_grad_()), x)[0]
    for function in (grad(total), lambda x: jvp(block, (x,), (x,)), vmap(lambda x: block(x[None])), grad(total)):
        with keep_fused(block):  # what is kept is first wanted inside the transform
            function(X)
            torch.testing.assert_close(block(X), block.forward_branches(X), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(grad(total)(X), expected)


def test_ensemble_by_vmap() -> None:
    blocks = [make(padding=1).eval().requires_grad_(False) for _ in range(3)]
    for index, block in enumerate(blocks):
        for parameter in block.parameters():
            parameter.add_(index)
    parameters, buffers = stack_module_state(blocks)
    base = copy.deepcopy(blocks[0]).to("meta")
    out = vmap(lambda p, b: functional_call(base, (p, b), (X,)))(parameters, buffers)
    expected = torch.stack([block.forward_branches(X) for block in blocks])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_autocast(options: dict[str, Any], training: bool) -> None:
    block = make(**options).train(training)
    exact = copy.deepcopy(block).double().forward_branches(X.double()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = block(X)
    assert out.dtype == torch.bfloat16
    assert float((out - exact).detach().abs().max() / exact.abs().max()) < 0.03
    torch.autograd.backward(out.float().sum())
    assert all(parameter.grad is not None for parameter in block.parameters())
    with torch.no_grad():  # what autocast saw is not kept in its precision
        torch.testing.assert_close(block.eval()(X), block.forward_branches(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_channels_last(options: dict[str, Any]) -> None:
    block = make(**options).eval()
    expected = block.forward_branches(X)
    block = block.to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = block(X.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
def test_half_precision(options: dict[str, Any], dtype: torch.dtype) -> None:
    block = make(**options).to(dtype).eval()
    exact = copy.deepcopy(block).double().forward_branches(X.to(dtype).double())
    error = {}
    with torch.no_grad():
        for name, out in (("fused", block(X.to(dtype))), ("branches", block.forward_branches(X.to(dtype)))):
            assert out.dtype == dtype
            error[name] = float((out.double() - exact).abs().max() / exact.abs().max())
    assert error["fused"] < {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert error["fused"] < 1.5 * error["branches"]


def test_default_device_and_dtype_are_respected() -> None:
    with torch.device("meta"):
        block = ACBlock(4, 6, 3)
    assert all(parameter.is_meta for parameter in block.parameters())
    materialised = block.to_empty(device="cpu")
    materialised.reset_parameters()
    out = materialised.eval()(X)
    assert out.isfinite().all()
