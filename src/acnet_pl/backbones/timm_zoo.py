"""Any network of timm."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from acnet_pl.backbones._checks import check_at_least
from acnet_pl.backbones._weights import load_weights
from acnet_pl.nn import ConvBuilder, convert

__all__ = ["Timm"]


class Timm(nn.Module):
    """A classification network of timm, its square convolutions built by the ConvBuilder.

    Shapes: ``(N, 3, H, W)`` to logits ``(N, num_classes)``. ``model`` is the network itself: what
    `acnet_pl.nn.stock_state_dict` of it gives loads into timm's.

    Args:
        conv: Decides what each square convolution of 3×3 or more becomes, together with its batch norm.
        num_classes: Number of logits.
        name: As ``timm.create_model`` takes it.
        weights_file: A file of timm's weights for this network, safetensors or ``torch.save`` of a state_dict, whose
            function blocks begin with; with a head for another number of classes, all but the head. Nothing is
            downloaded.
        include: Convert only these convolutions: names, the names of modules that hold them, or globs.
        exclude: Leave these as they are.
        kernel_sizes: Convert only kernels of these sizes.
        options: What else ``timm.create_model`` takes, such as ``drop_path_rate``.

    Raises:
        ValueError: There is no such network or file, or nothing to convert.
        ImportError: timm is not installed.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> Timm(PlainConv(), num_classes=10, name="lcnet_035")(torch.rand(2, 3, 64, 64)).shape
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
        try:
            import timm
        except ImportError as error:
            raise ImportError("the backbone Timm needs timm: pip install 'acnet-pl[timm]'") from error
        if not timm.is_model(name):
            close = get_close_matches(name.lower(), timm.list_models(), n=5)
            raise ValueError(
                f"`name` (={name!r}) is no network of timm {timm.__version__}; "
                + (f"did you mean {', '.join(close)}?" if close else "timm.list_models() has all names")
            )
        fixed = {"pretrained", "checkpoint_path", "num_classes"} & (options or {}).keys()
        if fixed:
            raise ValueError(f"`options`: {', '.join(sorted(fixed))}: use `num_classes` and `weights_file` instead")
        model = timm.create_model(name, pretrained=False, num_classes=num_classes, **(options or {}))
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
        """Return the function that builds timm's own network of these arguments, without blocks, and its arguments.

        Examples:
            >>> Timm.stock_constructor(10, "lcnet_035")
            ('timm.create_model', {'model_name': 'lcnet_035', 'num_classes': 10})
        """
        return "timm.create_model", {"model_name": name, "num_classes": num_classes, **(options or {})}
