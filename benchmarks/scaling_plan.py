"""ImageNet on 8 and 64 GPUs, on paper: the tables of docs/scaling.md, from counts and named assumptions.

    python benchmarks/scaling_plan.py                                 # print the tables
    python benchmarks/scaling_plan.py --tflops 200 --cores-per-gpu 8  # for another machine
    python benchmarks/scaling_plan.py --update docs/scaling.md        # write them into the page

Parameters, gradients, batch norms, multiply-accumulates and tensors saved for the backward pass are counted on the
networks themselves, on PyTorch's meta device, without a GPU and without memory. What hardware does is assumed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.analysis.meta_norms import QuickMetaNorms
from acnet_pl.backbones import AlexNet, DenseNet, ResNet
from acnet_pl.nn import ACBConv, ConvBuilder, FusibleConv, PlainConv

IMAGES, BYTES = 1_281_167, 147_897_477_120  # ILSVRC2012_img_train.tar
SIDE = 224
NETWORKS: dict[str, Callable[[ConvBuilder], nn.Module]] = {
    "AlexNet": lambda conv: AlexNet(conv, 1000),
    "ResNet-18": lambda conv: ResNet(conv, 1000, depth=18),
    "ResNet-50": lambda conv: ResNet(conv, 1000, depth=50),
    "DenseNet-121": lambda conv: DenseNet(conv, 1000, depth=121),
}
CONVS: dict[str, ConvBuilder] = {
    "plain": PlainConv(),
    "ACNet": ACBConv(asymmetric_size=3),  # as in the article
    "BN after the sum": ACBConv(asymmetric_size=3, branch_norm=False),
}


def assumed(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Assumptions:
    """What cannot be counted. The defaults are round figures for a node of eight A100s; none of them was measured."""

    tflops: float = assumed(100, "TFLOP/s that convolutions reach in bf16; a third of an A100's peak of 312")
    gpu_gb_s: float = assumed(1600, "GB/s of GPU memory that is reached; 80 % of an A100's 2,039")
    passes: float = assumed(5, "times that each saved tensor crosses GPU memory in a step, its gradient included")
    decoded: float = assumed(653, "images/s that one core reads, crops and decodes; PIL and ImageFolder reach 298")
    cores_per_gpu: float = assumed(16, "CPU cores for each GPU")
    disk_gb_s: float = assumed(6, "GB/s that a node reads from its disk, an NVMe drive")
    nvlink_gb_s: float = assumed(200, "GB/s of an all-reduce over NVLink in a node (bus bandwidth)")
    infiniband_gb_s: float = assumed(160, "GB/s out of a node over InfiniBand, 8 × 200 Gb/s; 80 % of it")
    ethernet_gb_s: float = assumed(10, "GB/s out of a node over Ethernet, 100 Gb/s; 80 % of it")
    collective_us: float = assumed(30, "microseconds of a small collective operation, whatever its size")
    batch: float = assumed(32, "images for each GPU in a step: 256 on 8 GPUs as in the article, 2,048 on 64")


@dataclass(frozen=True)
class Counts:
    """What a network has and needs.

    Attributes:
        gradients: Bytes of its gradients in float32.
        as_one: The same if the kernels of a block went as one k×k gradient.
        norms: Batch norms.
        norm_channels: Channels of all of them.
        macs: Multiply-accumulates of a training forward pass, for one image.
        saved: Bytes that the forward pass keeps in float32 for the backward pass, for one image.
    """

    gradients: int
    as_one: int
    norms: int
    norm_channels: int
    macs: int
    saved: int

    def seconds(self, on: Assumptions) -> float:
        """Of an image in a step on one GPU: three times the forward pass's arithmetic, and the memory passes."""
        arithmetic = 3 * 2 * self.macs / (on.tflops * 1e12)
        return arithmetic + on.passes * self.saved / 2 / (on.gpu_gb_s * 1e9)  # half of it: bf16

    def images_per_second(self, on: Assumptions, all_reduce: float = 0.0) -> float:
        """Of one GPU, where an all-reduce of so many seconds runs beside the backward pass, 2/3 of the step."""
        step = on.batch * self.seconds(on)
        return on.batch / (step / 3 + max(2 / 3 * step, all_reduce))

    def gigabytes(self, on: Assumptions) -> float:
        """On a GPU: weights, gradients, momentum and DDP's buckets in float32, saved tensors in bf16."""
        return (4 * self.gradients + on.batch * self.saved / 2) / 1e9


def count(build: Callable[[ConvBuilder], nn.Module], conv: ConvBuilder) -> Counts:
    with torch.device("meta"):
        network = build(conv).train()
    (saved, macs), (more, _) = _forward(network, 2), _forward(network, 4)
    gradients = sum(parameter.numel() for parameter in network.parameters())
    separate = sum(k.numel() for block in _blocks(network) for k in block.kernels())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return Counts(
        gradients=4 * gradients,
        as_one=4 * (gradients - separate + sum(next(block.kernels()).numel() for block in _blocks(network))),
        norms=len(norms),
        norm_channels=sum(norm.num_features for norm in norms),
        macs=macs // 2,
        saved=(more - saved) // 2,
    )


def _blocks(network: nn.Module) -> Iterable[FusibleConv]:
    return (module for module in network.modules() if isinstance(module, FusibleConv))


def _forward(network: nn.Module, images: int) -> tuple[int, int]:
    """Bytes of the distinct storages that autograd keeps, parameters left out, and multiply-accumulates."""
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, or another one could get its address
        return tensor

    flops = FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), QuickMetaNorms(), flops:
        network(torch.zeros(images, 3, SIDE, SIDE, device="meta"))
    saved = sum(storage.nbytes() for address, storage in kept.items() if address not in parameters)
    return saved, flops.get_total_flops() // 2


def all_reduce(size: float, gpus: int, gb_s: float) -> float:
    """Seconds of a ring all-reduce."""
    return 2 * (gpus - 1) / gpus * size / (gb_s * 1e9)


def counted(networks: dict[tuple[str, str], Counts]) -> str:
    rows = []
    for (name, conv), c in networks.items():
        gradients = f"{c.gradients / 1e6:.1f} MB ({c.gradients / networks[name, 'plain'].gradients:.2f}×)"
        small = f"{4 * (4 * c.norm_channels + c.norms) / 1e6:.2f} MB in {2 * c.norms}"
        cells = [f"{c.gradients / 4e6:.2f} M", gradients, f"{c.as_one / 1e6:.1f} MB", f"{c.macs / 1e9:.2f} G"]
        rows.append([name, conv, *cells, f"{c.saved / 1e6:.1f} MB", small])
    heads = ["parameters", "gradients", "sent as one", "MACs", "saved for backward", "SyncBN, collectives"]
    return table(["network", "conv", *heads], rows)


def planned(networks: dict[tuple[str, str], Counts], on: Assumptions) -> str:
    """Eight GPUs in a node."""
    rows, image = [], BYTES / IMAGES
    for (name, conv), c in networks.items():
        alone = c.images_per_second(on)
        limits = {
            "GPU": alone,
            "decoding": on.cores_per_gpu * on.decoded,
            "disk": on.disk_gb_s * 1e9 / image / 8,
            "NVLink": c.images_per_second(on, all_reduce(c.gradients, 8, on.nvlink_gb_s)),
        }
        first = min(limits, key=lambda what: limits[what])
        hours = 100 * IMAGES / (8 * limits[first]) / 3600
        needs = [f"{alone / on.decoded:.1f}", f"{8 * alone * image / 1e9:.1f} GB/s", f"{c.gigabytes(on):.1f} GB"]
        waits = f"{2e-3 * c.norms * on.collective_us:.1f} of {1e3 * on.batch * c.seconds(on):.1f} ms"
        rows.append([name, conv, f"{alone:,.0f}", *needs, waits, f"{first}: {limits[first]:,.0f}", f"{hours:.1f}"])
    heads = ["images/s per GPU", "cores per GPU", "disk", "memory", "SyncBN, step", "binds first: images/s"]
    return table(["network", "conv", *heads, "hours, 100 epochs"], rows)


def exchanged(networks: dict[tuple[str, str], Counts], on: Assumptions) -> str:
    """The all-reduce, and what is left of the speed of a GPU alone."""
    places = ((8, on.nvlink_gb_s), (64, on.infiniband_gb_s), (64, on.ethernet_gb_s))
    rows = []
    for (name, conv), c in networks.items():
        times = [all_reduce(c.gradients, *place) for place in places]
        left = [c.images_per_second(on, time) / c.images_per_second(on) for time in times]
        cells = [f"{1e3 * time:.1f} ms, {share:.0%}" for time, share in zip(times, left, strict=True)]
        hidden = 1.5 * times[-1] / c.seconds(on)  # where the backward pass, 2/3 of the step, lasts as long
        sent = all_reduce(c.as_one, *places[-1]) if conv == "BN after the sum" else times[-1]
        as_one = f"{1e3 * sent:.1f} ms, {c.images_per_second(on, sent) / c.images_per_second(on):.0%}"
        rows.append([name, conv, *cells, f"{hidden:.0f}", as_one if sent < times[-1] else "-"])
    heads = ["8 GPUs, NVLink", "64, InfiniBand", "64, Ethernet", "images per GPU to hide it", "sent as one, Ethernet"]
    return table(["network", "conv", *heads], rows)


def assumptions(on: Assumptions) -> str:
    rows = [[f"`--{f.name.replace('_', '-')}`", f"{getattr(on, f.name):g}", f.metadata["help"]] for f in fields(on)]
    return table(["", "", "assumption"], rows)


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def count_all() -> dict[tuple[str, str], Counts]:
    return {(name, conv): count(NETWORKS[name], CONVS[conv]) for name in NETWORKS for conv in CONVS}


def tables(networks: dict[tuple[str, str], Counts], on: Assumptions) -> dict[str, str]:
    return {
        "counted": counted(networks),
        "assumed": assumptions(on),
        "planned": planned(networks, on),
        "exchanged": exchanged(networks, on),
    }


def updated(page: str, content: dict[str, str]) -> str:
    """The page with its tables, which stand between ``<!-- NAME -->`` and ``<!-- end of NAME -->``, made new."""
    for name, text in content.items():
        page, found = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", rf"\1{text}\n\2", page, flags=re.S)
        if found != 1:
            raise ValueError(f"the page has {found} places for the table {name!r}, expected 1: <!-- {name} -->")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, metavar="PAGE", help="write the tables into this page")
    for assumption in fields(Assumptions):
        option = f"--{assumption.name.replace('_', '-')}"
        parser.add_argument(
            option, type=float, default=assumption.default, help=assumption.metadata["help"].replace("%", "%%")
        )
    options = vars(parser.parse_args())
    page: Path | None = options.pop("update")
    content = tables(count_all(), Assumptions(**options))
    if page is not None:
        page.write_text(updated(page.read_text(encoding="utf-8"), content), encoding="utf-8")
    else:
        print("\n\n".join(content.values()))


if __name__ == "__main__":
    main()
