"""Any classification network of torchvision."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from acnet_pl.backbones._checks import check_at_least
from acnet_pl.backbones._weights import load_weights
from acnet_pl.nn import ConvBuilder, convert

__all__ = ["Torchvision"]

# Without the auxiliary heads, whose logits nobody asks for; their default initialisation is announced to change.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


class Torchvision(nn.Module):
    """A classification network of torchvision, its square convolutions built by the ConvBuilder.

    Shapes: ``(N, 3, H, W)`` to logits ``(N, num_classes)``. ``model`` is the network itself: what
    `acnet_pl.nn.stock_state_dict` of it gives loads into torchvision's.

    Args:
        conv: Decides what each square convolution of 3×3 or more becomes, together with its batch norm.
        num_classes: Number of logits.
        name: As ``torchvision.models.get_model`` takes it.
        weights_file: A file of torchvision's weights for this network, safetensors or ``torch.save`` of a state_dict,
            whose function blocks begin with; with a head for another number of classes, all but the head. Nothing is
            downloaded.
        include: Convert only these convolutions: names, the names of modules that hold them, or globs.
        exclude: Leave these as they are.
        kernel_sizes: Convert only kernels of these sizes.
        options: What else the network's constructor takes.

    Raises:
        ValueError: There is no such network or file, or nothing to convert.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> Torchvision(PlainConv(), num_classes=10, name="resnet18")(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        conv: ConvBuilder,
        num_classes: int,
        name: str = "resnet18",
        weights_file: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        kernel_sizes: list[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 1)
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            close = get_close_matches(name.lower(), names, n=5)
            raise ValueError(
                f"`name` (={name!r}) is no classification network of torchvision"
                + (f"; did you mean {', '.join(close)}?" if close else f"; there are {', '.join(names)}")
            )
        model = models.get_model(
            name, weights=None, num_classes=num_classes, **{**_OPTIONS.get(name, {}), **(options or {})}
        )
        if weights_file is not None:
            load_weights(model, weights_file, num_classes)
        self.model = convert(
            model,
            conv,
            init="scratch" if weights_file is None else "preserve",
            include=include,
            exclude=exclude,
            kernel_sizes=kernel_sizes,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.model(images)
        return logits

    @staticmethod
    def stock_constructor(
        num_classes: int, name: str = "resnet18", options: dict[str, Any] | None = None, **_: Any
    ) -> tuple[str, dict[str, Any]]:
        """Return the function that builds torchvision's own network, without blocks, and its arguments.

        Examples:
            >>> Torchvision.stock_constructor(10, "googlenet")
            ('torchvision.models.googlenet', {'num_classes': 10, 'aux_logits': False, 'init_weights': True})
        """
        return f"torchvision.models.{name}", {"num_classes": num_classes, **_OPTIONS.get(name, {}), **(options or {})}
