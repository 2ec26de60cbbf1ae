"""Branch: the public view of one branch of a block, and its initial state in an already trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.scale import ChannelScale

__all__ = ["Branch", "branch_table", "take_over"]


@dataclass(frozen=True)
class Branch:
    """One summand of a block.

    Attributes:
        name: Its name, the key of `FusibleConv.fuse_branches`.
        title: What it computes, for display: "3×3", "identity".
        kernels: Its trainable kernels, in order of use.
        norm: Its last layer if that is a batch norm or scale, whose γ = 0 turns the branch off; otherwise None.
    """

    name: str
    title: str
    kernels: tuple[Tensor, ...]
    norm: nn.Module | None

    @torch.no_grad()
    def turn_off(self, like: Tensor, trainable: bool) -> None:
        """Set the branch's γ to zero, or its last kernel if it has no γ.

        Args:
            like: A kernel whose dtype and device are used if the batch norm has no γ and β and is given them here.
            trainable: Whether γ and β are trainable.

        Raises:
            TypeError: The branch has neither γ nor a kernel.
        """
        if isinstance(self.norm, _BatchNorm) and not self.norm.affine:
            self.norm.affine = True
            self.norm.weight, self.norm.bias = (nn.Parameter(torch.zeros_like(like[:, 0, 0, 0])) for _ in range(2))
        if isinstance(self.norm, (_BatchNorm, ChannelScale)):
            nn.init.zeros_(self.norm.weight)
            self.norm.requires_grad_(trainable)
        elif self.kernels:
            nn.init.zeros_(self.kernels[-1])
        else:
            raise TypeError(
                f"init='preserve' cannot turn off the branch `{self.name}`, which has neither a norm nor a kernel; use "
                "init='scratch'"
            )


def branch_table(heading: str, branches: Sequence[Branch], after: nn.Module | None) -> str:
    """Return the branches of a block as an HTML table, for notebooks.

    Args:
        heading: The block's class and arguments.
        branches: The block's branches.
        after: The batch norm after their sum, if any.
    """
    rows = [
        (branch.title, *_told(branch.kernels), type(branch.norm).__name__ if branch.norm is not None else "-")
        for branch in branches
    ]
    if after is not None:
        rows.append(("after the sum", "-", "0", type(after).__name__))
    head = "".join(f"<th>{name}</th>" for name in ("branch", "kernels", "parameters", "norm"))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<p><code>{escape(heading)}</code></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _told(kernels: Sequence[Tensor]) -> tuple[str, str]:
    """Return the shapes of kernels and their number of weights, as text."""
    shapes = ", ".join("×".join(map(str, kernel.shape)) for kernel in kernels)
    return shapes or "-", f"{sum(kernel.numel() for kernel in kernels):,}"


@torch.no_grad()
def take_over(target: _BatchNorm, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
    """Copy the replaced batch norm's values to a block's, or make that the identity in eval mode.

    Args:
        target: The block's batch norm, changed in place.
        conv: The convolution that the block replaces; its bias goes into the running mean.
        norm: The batch norm after the convolution; None if there is none.
    """
    if norm is not None:
        target.load_state_dict({key: value for key, value in norm.state_dict().items() if key in target.state_dict()})
        if conv.bias is not None and target.running_mean is not None:
            target.running_mean -= conv.bias
        return
    nn.init.ones_(target.weight)
    if conv.bias is not None:
        target.bias.copy_(conv.bias)
    if target.running_var is not None:
        target.running_var.fill_(1 - target.eps)
