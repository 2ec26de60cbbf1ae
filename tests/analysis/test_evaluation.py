from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, top_k_accuracy_score  # type: ignore[import-untyped]
from torch import Tensor, nn

from acnet_pl.analysis import accuracy
from acnet_pl.analysis.evaluation import count_correct, evaluating, full_precision

Batches = list[tuple[Tensor, Tensor]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_is_scikit_learns(small_net: Callable[[], nn.Module], batches: Batches, k: int) -> None:
    net = small_net()
    with torch.no_grad():
        scores = np.concatenate([net(images).numpy() for images, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert accuracy(net, batches, k) == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(7)))
    if k == 1:
        assert accuracy(net, batches) == pytest.approx(accuracy_score(labels, scores.argmax(1)))


def test_accuracy_leaves_modes_and_statistics_alone(small_net: Callable[[], nn.Module], batches: Batches) -> None:
    net = small_net().train()
    net[2].eval()  # type: ignore[index]
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    accuracy(net, batches)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_modes_are_restored_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout()).train()
    with pytest.raises(RuntimeError, match="conv2d"), evaluating(net):
        torch.nn.functional.conv2d(net(torch.zeros(1)), torch.zeros(1))
    assert net[0].training
    assert torch.is_grad_enabled()


def test_k_beyond_the_number_of_classes_finds_every_label() -> None:
    assert count_correct(torch.randn(6, 3), torch.randint(3, (6,)), (5, 1))[0] == 6


def test_double_precision_models_take_single_precision_images(
    small_net: Callable[[], nn.Module], batches: Batches
) -> None:
    net = small_net()
    assert accuracy(net.double(), batches) == accuracy(net.float(), batches)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2), torch.zeros(2)), "got 3 parts"),
        ((torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2)), r"got torch.uint8 \(2, 8, 8, 3\)"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 7)), "class indices"),
        (torch.zeros(2, 3, 8, 8), "needs labels"),
    ],
)
def test_unusable_batches_are_refused(small_net: Callable[[], nn.Module], batch: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(small_net(), [batch])  # type: ignore[list-item]


def test_an_exhausted_iterator_is_refused(small_net: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="no images"):
        accuracy(small_net(), [])


def test_models_without_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must give logits .* got \(2, 4, 6, 6\)"):
        accuracy(nn.Conv2d(3, 4, 3), [(torch.zeros(2, 3, 8, 8), torch.zeros(2).long())])


def _convolution_precision() -> str:
    """What cuDNN computes float32 convolutions in; PyTorch before 2.9 says it in another place."""
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return str(cudnn.conv.fp32_precision)
    return "tf32" if cudnn.allow_tf32 else "ieee"


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_full_precision_restores_the_users_settings(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        tf32, convolution = torch.backends.cudnn.allow_tf32, _convolution_precision()
        with torch.autocast("cpu", torch.bfloat16):
            with full_precision(torch.device("cpu")):
                assert torch.get_float32_matmul_precision() == "highest"
                assert _convolution_precision() == "ieee"
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert _convolution_precision() == convolution
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9 has one setting for all")
def test_full_precision_restores_what_was_set_operator_by_operator() -> None:
    backends: Any = torch.backends
    before, legacy = backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision()
    try:
        backends.cuda.matmul.fp32_precision = "tf32" if legacy == "highest" else "ieee"
        chosen = backends.cuda.matmul.fp32_precision
        with pytest.raises(RuntimeError):  # since then PyTorch refuses to say it in the old way
            torch.get_float32_matmul_precision()
        with full_precision(torch.device("cpu")):
            assert backends.cuda.matmul.fp32_precision == "ieee"
        assert backends.cuda.matmul.fp32_precision == chosen
    finally:
        backends.cuda.matmul.fp32_precision = before
        torch.set_float32_matmul_precision(legacy)
