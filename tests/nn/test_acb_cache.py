"""In eval mode a block computes one convolution with a kernel that it keeps exactly as long as that kernel is right."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from acnet_pl.nn import ACBlock, explicit_branches


class CountingBlock(ACBlock):
    folds = 0

    def fold(self) -> tuple[Tensor, Tensor]:
        self.folds += 1
        return super().fold()


def randomise(block: nn.Module) -> None:
    for norm in block.modules():
        if isinstance(norm, _BatchNorm):
            norm.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in norm.state_dict().items()})


@pytest.fixture(params=[True, False, "scale"], ids=["branch_norm", "norm_after_sum", "scaled"])
def block(request: pytest.FixtureRequest) -> CountingBlock:
    torch.manual_seed(0)
    block = CountingBlock(4, 6, 3, padding=1, branch_norm=request.param)
    randomise(block)
    return block.eval()


def norm_of(block: ACBlock) -> _BatchNorm:
    norm = block.square_norm or block.norm
    assert norm is not None
    return norm


def square_of(block: ACBlock) -> nn.Conv2d:
    assert block.square is not None
    return block.square


X = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))


def outputs(block: ACBlock, x: Tensor = X) -> tuple[Tensor, Tensor]:
    """The shortcut's output and that of the explicit branches."""
    with torch.no_grad():
        return block(x), block.forward_branches(x)


def test_folds_once(block: CountingBlock) -> None:
    for _ in range(5):
        torch.testing.assert_close(*outputs(block))
    with torch.inference_mode():
        block(X)
    with torch.no_grad():
        block(X[:1, :, :3])
        block.get_submodule("square")(X)  # reading parameters is no change
        block.state_dict()
    assert block.folds == 1


def test_frozen_parameters_fold_once_also_with_gradients_enabled(block: CountingBlock) -> None:
    block.requires_grad_(False)
    x = X.clone().requires_grad_()
    for _ in range(3):
        torch.autograd.backward(block(x).sum())
    assert block.folds == 1
    assert x.grad is not None


def _step(block: ACBlock) -> None:
    optimizer = torch.optim.SGD(block.parameters(), lr=0.5, momentum=0.9)
    torch.autograd.backward(block(X).square().mean())
    optimizer.step()


def _load(block: ACBlock) -> None:
    block.load_state_dict({name: torch.rand_like(t.float()) for name, t in block.state_dict().items()})


def _assign(block: ACBlock) -> None:
    block.load_state_dict({name: torch.rand_like(t.float()) for name, t in block.state_dict().items()}, assign=True)


def _train_a_batch(block: ACBlock) -> None:
    block.train()
    block(X * 3 + 1)
    block.eval()


def _train_a_batch_with_one_norm_in_train_mode(block: ACBlock) -> None:
    norm_of(block).train()  # the block's own mode does not change
    with torch.no_grad():
        block(X * 3 + 1)
    norm_of(block).eval()


def _train_the_norm_elsewhere(block: ACBlock) -> None:
    norm = norm_of(block).train()
    norm(torch.randn(4, 6, 3, 3) * 3 + 1)
    norm.eval()


def _edit_kernel(block: ACBlock) -> None:
    with torch.no_grad():
        square_of(block).weight[0, 0, 1, 1] += 1


def _edit_buffer(block: ACBlock) -> None:
    mean = norm_of(block).running_mean
    assert mean is not None
    mean += 1


def _edit_state_dict(block: ACBlock) -> None:
    block.state_dict()["square.weight"].mul_(2)


def _change_eps(block: ACBlock) -> None:
    norm_of(block).eps = 0.5


def _replace_parameter(block: ACBlock) -> None:
    square_of(block).weight = nn.Parameter(torch.randn(6, 4, 3, 3))


def _replace_norm(block: ACBlock) -> None:
    new = nn.BatchNorm2d(6).eval()
    randomise(new)
    setattr(block, "square_norm" if block.square_norm is not None else "norm", new)


def _drop_affine(block: ACBlock) -> None:
    setattr(block, "square_norm" if block.square_norm is not None else "norm", nn.BatchNorm2d(6, affine=False).eval())


def _drop_branch(block: ACBlock) -> None:
    block.vertical = None


def _edit_through_data(block: ACBlock) -> None:
    square_of(block).weight.data.mul_(2)
    block.eval()


def _replace_data(block: ACBlock) -> None:
    square_of(block).weight.data = torch.randn(6, 4, 3, 3)


def _reset(block: ACBlock) -> None:
    block.reset_parameters()


def _copy_weights(block: ACBlock) -> None:
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in block.parameters())), block.parameters())
    block.eval()  # it edits through `data`


CHANGES: list[Callable[[ACBlock], None]] = [
    _step,
    _load,
    _assign,
    _train_a_batch,
    _train_a_batch_with_one_norm_in_train_mode,
    _train_the_norm_elsewhere,
    _edit_kernel,
    _edit_buffer,
    _edit_state_dict,
    _change_eps,
    _replace_parameter,
    _replace_norm,
    _drop_affine,
    _drop_branch,
    _edit_through_data,
    _replace_data,
    _reset,
    _copy_weights,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(block: CountingBlock, change: Callable[[ACBlock], None]) -> None:
    before, _ = outputs(block)
    change(block)
    after, expected = outputs(block)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(after, expected)
    folds = block.folds
    outputs(block)
    assert block.folds == folds


def test_memory_used_again_does_not_pass_for_the_old_parameter(block: CountingBlock) -> None:
    for _ in range(50):
        torch.testing.assert_close(*outputs(block))
        for _ in range(3):  # the allocator hands the freed first one's memory out again
            square_of(block).weight = nn.Parameter(torch.randn(6, 4, 3, 3))


def test_rounding_a_layer_by_moving_it_to_half_and_back_is_seen(block: CountingBlock) -> None:
    for _ in range(50):
        with torch.no_grad():
            square_of(block).weight.normal_()
        torch.testing.assert_close(*outputs(block), rtol=1e-5, atol=1e-5)
        square_of(block).half().float()  # not through the block
        torch.testing.assert_close(*outputs(block), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_moving_folds_again(block: CountingBlock, dtype: torch.dtype) -> None:
    outputs(block)
    block.to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    out, expected = outputs(block, X.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    block.float()
    torch.testing.assert_close(*outputs(block))
    assert block.folds == 3


def test_synchronised_batch_norm(block: CountingBlock) -> None:
    before, _ = outputs(block)
    block = nn.SyncBatchNorm.convert_sync_batchnorm(block)  # type: ignore[no-untyped-call]
    after, expected = outputs(block)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_a_copy_has_a_cache_of_its_own(block: CountingBlock, copied: Callable[[CountingBlock], CountingBlock]) -> None:
    expected, _ = outputs(block)
    other = copied(block)
    _edit_kernel(other)
    torch.testing.assert_close(*outputs(other))
    assert torch.equal(outputs(block)[0], expected)
    assert not torch.allclose(outputs(other)[0], expected)
    assert (block.folds, other.folds) == (1, 2)


def test_train_mode_never_uses_the_cache(block: CountingBlock) -> None:
    outputs(block)
    block.train()
    torch.testing.assert_close(block(X), copy.deepcopy(block).forward_branches(X))
    assert block.folds == 1


def test_gradients_flow_in_eval_mode_after_the_cache_was_filled(block: CountingBlock) -> None:
    outputs(block)
    torch.autograd.backward(block(X).square().sum())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


def test_training_after_inference_mode(block: CountingBlock) -> None:
    with torch.inference_mode():
        block(X)
    x = X.clone().requires_grad_()
    torch.autograd.backward(block.requires_grad_(False)(x).sum())  # the kernel kept above is no inference tensor
    assert block.folds == 1
    block.requires_grad_().train()
    _step(block)
    torch.testing.assert_close(*outputs(block.eval()))


def test_block_made_in_inference_mode() -> None:
    with torch.inference_mode():  # its tensors have no versions
        block = CountingBlock(4, 6, 3, padding=1).eval()
        torch.testing.assert_close(*outputs(block))
        square_of(block).weight.mul_(2)
        torch.testing.assert_close(*outputs(block))


def test_explicit_branches_do_not_fold(block: CountingBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(block)
    expected, _ = outputs(block)

    def forbidden() -> tuple[Tensor, Tensor]:
        raise AssertionError("the fold is what is to be checked")

    monkeypatch.setattr(block, "fold", forbidden)
    block._cache.clear()
    with torch.no_grad():
        with pytest.raises(AssertionError, match="to be checked"):
            model(X)
        with explicit_branches(model):
            torch.testing.assert_close(model(X), expected)
        with pytest.raises(AssertionError, match="to be checked"):
            model(X)


def test_explicit_branches_see_a_wrong_fold(block: CountingBlock) -> None:
    with torch.no_grad():
        block(X)
        kept = block._cache._entry
        assert kept is not None
        kept.folded[0].add_(1)
        with explicit_branches(block):
            explicit = block(X)
    shortcut, expected = outputs(block)
    torch.testing.assert_close(explicit, expected)
    assert not torch.allclose(shortcut, expected)


@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_a_branch_are_called(block: CountingBlock, training: bool) -> None:
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
    assert block.folds == 0
    outputs(block.eval())
    assert block.folds == 1


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
def test_pruned_and_parametrised_layers_train_and_evaluate(
    block: CountingBlock, change: Callable[[ACBlock], None]
) -> None:
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
def test_a_kernel_that_a_hook_computes_is_folded_as_it_is_now(
    block: CountingBlock, change: Callable[[nn.Module], object]
) -> None:
    change(block if change is _prune else square_of(block))
    with torch.no_grad():
        for parameter in square_of(block).parameters():
            parameter.mul_(2)  # as loading a checkpoint or the last step of an optimizer, with no forward pass after it
        fused = block.fuse()
        torch.testing.assert_close(fused(X), block.forward_branches(X))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_of_a_fused_optimizer_in_eval_mode_are_seen(
    block: CountingBlock, optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    steps = optimizer(block.parameters(), lr=0.1, fused=True)  # which counts no versions
    before, _ = outputs(block)
    for _ in range(2):
        block(X).square().mean().backward()
        steps.step()
        after, expected = outputs(block)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, expected)
        before = after


def test_an_edit_behind_a_parametrisation_is_seen(block: CountingBlock) -> None:
    _parametrise_norm(block)
    outputs(block)
    with torch.no_grad():
        norm_of(block).get_parameter("parametrizations.weight.original").add_(1)
    torch.testing.assert_close(*outputs(block))


def test_another_parameter_over_the_same_memory_is_seen(block: CountingBlock) -> None:
    square = square_of(block)
    with torch.no_grad():
        square.weight.mul_(2)
    outputs(block)
    other = nn.Parameter(square.weight.data)
    with torch.no_grad():
        for _ in range(square.weight._version - other._version):
            other.add_(1)
    assert (other.data_ptr(), other._version) == (square.weight.data_ptr(), square.weight._version)
    square.weight = other
    torch.testing.assert_close(*outputs(block))


def test_what_is_kept_takes_no_room_in_copies_and_is_freed_when_it_cannot_be_used(block: CountingBlock) -> None:
    size = len(pickle.dumps(block))
    for forget in (lambda: block.to(torch.float32), block.train, block.eval, lambda: block.requires_grad_().double()):
        outputs(block.eval().float())
        assert block._cache._entry is not None
        assert abs(len(pickle.dumps(block)) - size) < 100
        assert copy.deepcopy(block)._cache._entry is None
        forget()  # type: ignore[no-untyped-call]
        assert block._cache._entry is None
