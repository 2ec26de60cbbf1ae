"""Compare the blocks with their authors' implementations: one set of weights, outputs, gradients and fused kernels.

The authors' code is not part of this repository. Give the folder of a checkout of each:

    python benchmarks/block_equivalence.py --reference dbb=DiverseBranchBlock --reference repvgg=RepVGG \
        --reference mobileone=ml-mobileone --reference orepa=OREPA_CVPR2022

Each pair is compared in float64 on random weights, statistics and images, in train and in eval mode, over the shapes
that the reference supports. Printed are the largest differences relative to the largest value.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import DBBlock, MobileOneBlock, OREPABlock, RepVGGBlock

SHAPES = [
    {"in_channels": 8, "out_channels": 8, "groups": 1, "stride": 1},
    {"in_channels": 8, "out_channels": 12, "groups": 1, "stride": 2},
    {"in_channels": 8, "out_channels": 8, "groups": 2, "stride": 1},
    {"in_channels": 8, "out_channels": 8, "groups": 8, "stride": 1},
]


def conv_norm(theirs: Any, ours: Any) -> None:
    """Copy a convolution and its batch norm into a branch."""
    ours.conv.load_state_dict(theirs.conv.state_dict())
    ours.norm.load_state_dict(theirs.bn.state_dict())


def dbb(theirs: Any, ours: Any) -> None:
    """Copy the weights of the authors' DiverseBranchBlock."""
    layers = ours.layers
    conv_norm(theirs.dbb_origin, layers["square"])
    if hasattr(theirs, "dbb_1x1"):
        conv_norm(theirs.dbb_1x1, layers["pointwise"])
        layers["average"].conv.load_state_dict(theirs.dbb_avg.conv.state_dict())
        layers["average"].inner.bn.load_state_dict(theirs.dbb_avg.bn.bn.state_dict())
    layers["average"].norm.load_state_dict(theirs.dbb_avg.avgbn.state_dict())
    chain, own = theirs.dbb_1x1_kxk, layers["sequence"]
    if hasattr(chain, "idconv1"):
        own.pointwise.weight.copy_(chain.idconv1.weight)
    else:  # theirs has no identity in a depthwise block
        own.pointwise.weight.copy_(chain.conv1.weight - own.pointwise.kernel(torch.zeros_like(chain.conv1.weight)))
    own.inner.bn.load_state_dict(chain.bn1.bn.state_dict())
    own.conv.load_state_dict(chain.conv2.state_dict())
    own.norm.load_state_dict(chain.bn2.state_dict())


def repvgg(theirs: Any, ours: Any) -> None:
    """Copy the weights of the authors' RepVGGBlock."""
    conv_norm(theirs.rbr_dense, ours.layers["square"])
    conv_norm(theirs.rbr_1x1, ours.layers["pointwise"])
    if theirs.rbr_identity is not None:
        ours.layers["identity"].norm.load_state_dict(theirs.rbr_identity.state_dict())


def mobileone(theirs: Any, ours: Any) -> None:
    """Copy the weights of the authors' MobileOneBlock."""
    for number, branch in enumerate(theirs.rbr_conv):
        conv_norm(branch, ours.layers[f"conv{number}"])
    conv_norm(theirs.rbr_scale, ours.layers["scale"])
    if theirs.rbr_skip is not None:
        ours.layers["identity"].norm.load_state_dict(theirs.rbr_skip.state_dict())


def orepa(theirs: Any, ours: Any) -> None:
    """Copy the weights of the authors' OREPA."""
    layers = ours.layers
    layers["square"].conv.weight.copy_(theirs.weight_orepa_origin)
    layers["average"].conv.weight.copy_(theirs.weight_orepa_avg_conv)
    layers["prior"].conv.weight.copy_(theirs.weight_orepa_pfir_conv)
    layers["prior"].window.copy_(theirs.weight_orepa_prior)
    layers["sequence"].pointwise.weight.copy_(theirs.weight_orepa_1x1_kxk_idconv1)
    layers["sequence"].conv.weight.copy_(theirs.weight_orepa_1x1_kxk_conv2)
    layers["pointwise"].conv.weight.copy_(theirs.weight_orepa_1x1)
    layers["separable"].depthwise.weight.copy_(theirs.weight_orepa_gconv_dw)
    pointwise = theirs.weight_orepa_gconv_pw.unflatten(0, (-1, theirs.groups))  # theirs takes groups turn by turn
    layers["separable"].pointwise.weight.copy_(pointwise.transpose(0, 1).flatten(0, 1))
    for name, scale in zip(
        ("square", "average", "prior", "sequence", "pointwise", "separable"), theirs.vector, strict=True
    ):
        layers[name].norm.weight.copy_(scale)
    ours.norm.load_state_dict(theirs.bn.state_dict())


# By name: the reference's module and class, its options, the block, and how weights are copied.
PAIRS: dict[str, tuple[str, str, dict[str, Any], Callable[..., nn.Module], Callable[[Any, Any], None]]] = {
    "dbb": ("diversebranchblock", "DiverseBranchBlock", {}, DBBlock, dbb),
    "repvgg": ("repvgg", "RepVGGBlock", {}, RepVGGBlock, repvgg),
    "mobileone": ("mobileone", "MobileOneBlock", {"num_conv_branches": 4}, MobileOneBlock, mobileone),
    "orepa": ("blocks", "OREPA", {}, OREPABlock, orepa),
}
MAIN = {"dbb": "dbb_origin.conv", "repvgg": "rbr_dense.conv", "mobileone": "rbr_conv.0.conv", "orepa": ""}


def randomise(block: nn.Module) -> None:
    """Give every parameter and statistic random values."""
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    for norm in block.modules():
        if isinstance(norm, _BatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)


def apart(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((expected - found).detach().abs().max() / expected.detach().abs().max())


def compare(name: str, theirs: Any, ours: Any, channels: int) -> dict[str, float]:
    """Compare two blocks with the same weights."""
    for block in (theirs, ours):  # without the activation that some of theirs have
        for attribute in ("nonlinearity", "nonlinear", "activation"):
            if hasattr(block, attribute):
                setattr(block, attribute, nn.Identity())
    x = torch.randn(4, channels, 11, 11, dtype=torch.float64)
    outputs = [block.train()(x) for block in (theirs, ours)]
    found = {"train": apart(*outputs)}
    main = theirs.weight_orepa_origin if name == "orepa" else theirs.get_submodule(MAIN[name]).weight
    kernel = ours.branches()[0].kernels[0]
    weight = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad((output * weight).sum(), parameter)[0]
        for output, parameter in zip(outputs, (main, kernel), strict=True)
    ]
    found["gradient"] = apart(*gradients)
    found["eval"] = apart(theirs.eval()(x), ours.eval()(x))
    method = (
        theirs.get_equivalent_kernel_bias if hasattr(theirs, "get_equivalent_kernel_bias") else theirs._get_kernel_bias
    )
    for part, expected, own in zip(("kernel", "bias"), method(), ours.get_equivalent_kernel_bias(), strict=True):
        found[part] = apart(expected, own)
    return found


def main() -> None:
    """Compare each block whose reference is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="append", required=True, metavar="NAME=PATH", help=", ".join(PAIRS))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    for reference in parser.parse_args().reference:
        name, _, path = reference.partition("=")
        module, kind, options, make, copy_weights = PAIRS[name]
        sys.path.insert(0, str(Path(path).resolve()))
        reference_class = getattr(importlib.import_module(module), kind)
        for shape in SHAPES:
            text = f"{name:10} " + ", ".join(f"{key} {value}" for key, value in shape.items())
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    theirs = reference_class(kernel_size=3, padding=1, **shape, **options)
                    randomise(theirs)
                    theirs(torch.randn(2, shape["in_channels"], 7, 7))
            except Exception as error:
                print(f"{text}: the reference fails ({type(error).__name__}: {str(error).splitlines()[0]})")
                continue
            more = {"copies": options["num_conv_branches"]} if options else {}
            ours = make(kernel_size=3, padding=1, **shape, **more)
            with torch.no_grad():
                copy_weights(theirs, ours)
            print(
                text
                + ": "
                + ", ".join(f"{k} {v:.1e}" for k, v in compare(name, theirs, ours, shape["in_channels"]).items())
            )
        sys.path.pop(0)


if __name__ == "__main__":
    main()
