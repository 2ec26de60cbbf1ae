"""In eval mode a block computes one convolution with the kernel that its weights make now, or kept while told so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from acnet_pl.nn import ACBlock, explicit_branches, keep_fused

X = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[True, False, "scale"], ids=["branch_norm", "norm_after_sum", "scaled"])
def block(request: pytest.FixtureRequest) -> ACBlock:
    torch.manual_seed(0)
    block = ACBlock(4, 6, 3, padding=1, branch_norm=request.param)
    for norm in block.modules():
        if isinstance(norm, _BatchNorm):
            norm.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in norm.state_dict().items()})
    return block.eval()


def norm_of(block: ACBlock) -> _BatchNorm:
    norm = block.square_norm or block.norm
    assert norm is not None
    return norm


def square_of(block: ACBlock) -> nn.Conv2d:
    assert block.square is not None
    return block.square


def outputs(block: ACBlock, x: Tensor = X) -> tuple[Tensor, Tensor]:
    """The shortcut's output and that of the explicit branches."""
    with torch.no_grad():
        return block(x), block.forward_branches(x)


def _fused_optimizer(block: ACBlock) -> None:
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1, fused=True)  # which counts no versions
    block(X).square().mean().backward()
    optimizer.step()


def _edit_through_data(block: ACBlock) -> None:
    square_of(block).weight.data.mul_(2)


def _train_a_batch(block: ACBlock) -> None:
    block.train()
    block(X * 3 + 1)
    block.eval()


def _change_eps(block: ACBlock) -> None:
    norm_of(block).eps = 0.5


def _drop_affine(block: ACBlock) -> None:
    setattr(block, "square_norm" if block.square_norm is not None else "norm", nn.BatchNorm2d(6, affine=False).eval())


def _drop_branch(block: ACBlock) -> None:
    block.vertical = None


CHANGES = [_fused_optimizer, _edit_through_data, _train_a_batch, _change_eps, _drop_affine, _drop_branch]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(block: ACBlock, change: Callable[[ACBlock], None]) -> None:
    before, _ = outputs(block)
    change(block)
    after, expected = outputs(block)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(after, expected)


def fusions(block: ACBlock, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows with every kernel that the block makes."""
    made: list[None] = []
    fuse = block._fuse_frozen

    def counting() -> tuple[Tensor, Tensor]:
        made.append(None)
        return fuse()

    monkeypatch.setattr(block, "_fuse_frozen", counting)
    return made


def test_a_kernel_is_made_for_every_batch_or_kept_while_told_so(
    block: ACBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fusions(block, monkeypatch)
    net = nn.Sequential(block)
    with torch.no_grad():
        expected = net(X)
        net(X)
        assert len(made) == 2
        with keep_fused(net), keep_fused(block):
            for _ in range(3):
                assert torch.equal(net(X), expected)
            with torch.inference_mode():
                assert torch.equal(net(X), expected)
            with explicit_branches(net):
                torch.testing.assert_close(net(X), expected)
            assert len(made) == 3
        _edit_through_data(block)
        torch.testing.assert_close(*outputs(block))


def test_what_is_kept_serves_gradients_of_images_and_never_those_of_weights(
    block: ACBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fusions(block, monkeypatch)
    x = X.clone().requires_grad_()
    with keep_fused(block):
        with torch.inference_mode():
            block(X)
        for expected in (2, 3):
            torch.autograd.backward(block(x).square().sum())
            assert len(made) == expected
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())
        to_images = x.grad
        x.grad = None
        block.requires_grad_(False)
        for _ in range(2):
            torch.autograd.backward(block(x).square().sum())
        assert len(made) == 3
    torch.testing.assert_close(x.grad, to_images)


def test_other_weights_are_never_those_that_are_kept(block: ACBlock) -> None:
    """As a teacher's, by functional_call, and changes in place."""
    teacher = {name: t * 1.5 if t.is_floating_point() else t for name, t in block.state_dict().items()}
    with torch.no_grad():
        expected, taught = block(X), functional_call(block, teacher, (X,))
        assert not torch.allclose(expected, taught)
        with keep_fused(block):
            for _ in range(2):
                assert torch.equal(block(X), expected)
                assert torch.equal(functional_call(block, teacher, (X,)), taught)
            block.load_state_dict(teacher)
            assert torch.equal(block(X), taught)
            norm_of(block).running_var.fill_(2.0)  # type: ignore[union-attr]
            torch.testing.assert_close(*outputs(block))
            for norm in (module for module in block.modules() if isinstance(module, _BatchNorm)):
                norm.eps = 0.5
            torch.testing.assert_close(*outputs(block))
            torch.utils.swap_tensors(square_of(block).weight, nn.Parameter(torch.randn_like(square_of(block).weight)))
            torch.testing.assert_close(*outputs(block))
            nn.utils.vector_to_parameters(torch.rand(sum(p.numel() for p in block.parameters())), block.parameters())
            torch.testing.assert_close(*outputs(block))


def test_tensors_whose_changes_are_not_counted(block: ACBlock) -> None:
    with torch.inference_mode():
        copied = copy.deepcopy(block)
        with keep_fused(copied):
            copied(X)
            norm_of(copied).running_mean.add_(1)  # type: ignore[union-attr]
            torch.testing.assert_close(*outputs(copied))


def test_gradients_of_buffers_are_kept(block: ACBlock) -> None:
    block.requires_grad_(False)
    mean = torch.zeros(6, requires_grad=True)
    name = next(name for name, _ in block.named_buffers() if name.endswith("running_mean"))
    with keep_fused(block):
        block(X)
        assert functional_call(block, {name: mean}, (X,)).requires_grad


def test_copies_keep_nothing(block: ACBlock) -> None:
    size = len(pickle.dumps(block))
    with keep_fused(block):
        expected, _ = outputs(block)
        copied = copy.deepcopy(block)
        assert len(pickle.dumps(block)) == size
        _edit_through_data(copied)
        torch.testing.assert_close(*outputs(copied))
        assert torch.equal(outputs(block)[0], expected)


def test_block_made_in_inference_mode() -> None:
    with torch.inference_mode():
        block = ACBlock(4, 6, 3, padding=1).eval()
        torch.testing.assert_close(*outputs(block))
        with keep_fused(block):
            torch.testing.assert_close(*outputs(block))


def test_synchronised_batch_norm(block: ACBlock) -> None:
    before, _ = outputs(block)
    block = nn.SyncBatchNorm.convert_sync_batchnorm(block)  # type: ignore[no-untyped-call]
    after, expected = outputs(block)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_a_branch_are_called(block: ACBlock, training: bool) -> None:
    block.train(training)
    calls: list[str] = []
    convolution = square_of(block)
    handles = [
        convolution.register_forward_pre_hook(lambda *_: calls.append("pre")),
        convolution.register_forward_hook(lambda *_: calls.append("forward")),
        norm_of(block).register_forward_hook(lambda *_: calls.append("norm")),
        convolution.register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    torch.autograd.backward(block(X.clone().requires_grad_()).sum())
    assert calls == ["pre", "forward", "norm", "backward"]
    for handle in handles:
        handle.remove()


def _step(block: ACBlock) -> None:
    optimizer = torch.optim.SGD(block.parameters(), lr=0.5, momentum=0.9)
    torch.autograd.backward(block(X).square().mean())
    optimizer.step()


def _prune(block: ACBlock) -> None:
    torch.nn.utils.prune.l1_unstructured(square_of(block), "weight", 0.3)  # type: ignore[no-untyped-call]


def _normalise_weight(block: ACBlock) -> None:
    parametrizations.weight_norm(square_of(block))


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def _parametrise_norm(block: ACBlock) -> None:
    register_parametrization(norm_of(block), "weight", _Square())


@pytest.mark.parametrize("change", [_prune, _normalise_weight, _parametrise_norm])
def test_pruned_and_parametrised_layers_train_and_evaluate(block: ACBlock, change: Callable[[ACBlock], None]) -> None:
    change(block)
    outputs(block)
    before, _ = outputs(block)
    _step(block)  # in eval mode, as fine-tuning does
    after, expected = outputs(block)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, expected)
    block.train()
    _step(block)
    _step(block)
    torch.testing.assert_close(*outputs(block.eval()))
    with torch.no_grad():
        torch.testing.assert_close(block.fuse()(X), block(X))


@pytest.mark.parametrize("change", [_prune, torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_kernel_that_a_hook_computes_is_fused_as_it_is_now(
    block: ACBlock, change: Callable[[nn.Module], object]
) -> None:
    change(block if change is _prune else square_of(block))
    with torch.no_grad():
        for parameter in square_of(block).parameters():
            parameter.mul_(2)  # as loading a checkpoint or the last step of an optimizer, with no forward pass after it
        fused = block.fuse()
        torch.testing.assert_close(fused(X), block.forward_branches(X))
