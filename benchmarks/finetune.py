"""Does it pay to fine-tune a trained torchvision net with asymmetric blocks? The same extra epochs with and without.

A small torchvision ResNet is trained plain on CIFAR-10. From these weights two copies are trained on, alike in images,
epochs and learning rates: one as it is, one after ``convert_to_acnet(init="preserve")``. The latter is then fused back
into the stock architecture with ``load_state_dict(stock_state_dict(acnet))``, strictly, and both are tested.

    python benchmarks/finetune.py --root data --out results/cifar10/finetune.json
    python benchmarks/finetune.py --root data --train-images 512 --pretrain-epochs 1 --epochs 1 --seeds 0   # a trial
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from acnet_pl.analysis import accuracy, compare, complexity
from acnet_pl.data import CIFARDataModule
from acnet_pl.data.augment import augment
from acnet_pl.nn import conversion_report, convert_to_acnet, stock_state_dict
from record import write_record

TOLERANCE = 1e-4


def make_net() -> nn.Module:
    """torchvision's ResNet with one BasicBlock in each stage and a stem for images of 32×32 pixels."""
    net: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return net


class Images:
    """The training images of a data module, augmented afresh in every epoch, and its test images."""

    def __init__(self, data: CIFARDataModule, train_images: int | None, device: torch.device) -> None:
        self.data = data
        train, test = data.train_set, data.test_set
        self.images, self.labels = train.images[:train_images].to(device), train.labels[:train_images].to(device)
        self.test = [
            (data.normalize(images.to(device)), labels.to(device))
            for images, labels in zip(torch.split(test.images, 500), torch.split(test.labels, 500), strict=True)
        ]

    def batches(self, seed: int, epoch: int) -> list[Tensor]:
        """The indices of an epoch's batches, the same for both copies."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        size = self.data.batch_size
        return list(torch.split(order[: len(order) // size * size], size))

    def batch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.images.device)
        images = augment(self.images[indices], indices, seed=seed, epoch=epoch, pad=4, flip=True)
        return self.data.normalize(images), self.labels[indices]


def train(net: nn.Module, images: Images, *, seed: int, first_epoch: int, epochs: int, lr: float) -> float:
    """SGD with a cosine from ``lr`` to 0 after a tenth of warm-up; returns the seconds it took."""
    device = images.images.device
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(images.batches(seed, first_epoch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, cycle_momentum=False, final_div_factor=1e4
    )
    net.train()
    start = time.perf_counter()
    for epoch in range(first_epoch, first_epoch + epochs):
        for indices in images.batches(seed, epoch):
            inputs, labels = images.batch(indices, seed, epoch)
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(net(inputs), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch}: loss of the last batch {loss.item():.3f}", flush=True)
    net.eval()
    return time.perf_counter() - start


def run(seed: int, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """Train plain, then both ways on; returns the accuracies and how exactly the stock model computes the ACNet."""
    device = images.images.device
    torch.manual_seed(seed)
    net = make_net().to(device).to(memory_format=torch.channels_last)
    print(f"seed {seed}: pretraining", flush=True)
    train(net, images, seed=seed, first_epoch=0, epochs=options.pretrain_epochs, lr=options.pretrain_lr)
    further = {"seed": seed, "first_epoch": options.pretrain_epochs, "epochs": options.epochs, "lr": options.lr}

    plain, acnet = copy.deepcopy(net), convert_to_acnet(net, init="preserve")
    kept = compare(net, acnet, images.test)
    print(f"seed {seed}: training on as it is", flush=True)
    plain_seconds = train(plain, images, **further)
    print(f"seed {seed}: training on as ACNet", flush=True)
    acnet_seconds = train(acnet, images, **further)

    stock = make_net().to(device)
    stock.load_state_dict(stock_state_dict(acnet), strict=True)
    fused = compare(acnet, stock, images.test)
    if not fused.within(TOLERANCE):
        raise SystemExit(f"the stock model is not the trained ACNet: {fused}")
    shape = (3, 32, 32)
    return {
        "seed": seed,
        "pretrained": accuracy(net, images.test),
        "converted": kept.fused_accuracy,
        "plain": accuracy(plain, images.test),
        "acnet": fused.trained_accuracy,
        "acnet_in_stock": fused.fused_accuracy,
        "stock_max_rel_difference": fused.max_rel_difference,
        "converted_layers": len(conversion_report(acnet).converted),
        "parameters": {
            name: complexity(model, shape).parameters for name, model in (("acnet", acnet), ("stock", stock))
        },
        "train_seconds": {"plain": round(plain_seconds, 1), "acnet": round(acnet_seconds, 1)},
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds, in per cent and percentage points."""
    columns = {name: [100 * run[name] for run in runs] for name in ("pretrained", "plain", "acnet_in_stock")}
    columns["gain_of_acnet"] = [b - a for a, b in zip(columns["plain"], columns["acnet_in_stock"], strict=True)]
    return {
        name: {
            "mean": round(statistics.mean(values), 3),
            "std": round(statistics.stdev(values), 3) if len(values) > 1 else None,
            "n": len(values),
        }
        for name, values in columns.items()
    }


def table(runs: list[dict[str, Any]]) -> Table:
    result = Table(title="Test accuracy (%)", title_justify="left")
    for column in ("seed", "pretrained", "trained on plain", "trained on as ACNet, in the stock model", "difference"):
        result.add_column(column, justify="right")
    for each in runs:
        before, plain, acnet = (100 * each[name] for name in ("pretrained", "plain", "acnet_in_stock"))
        result.add_row(str(each["seed"]), f"{before:.2f}", f"{plain:.2f}", f"{acnet:.2f}", f"{acnet - plain:+.2f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--data-name", default="CIFAR-10", help="what to call the images in the results")
    parser.add_argument("--no-verify", action="store_true", help="the batches are a copy with other checksums")
    parser.add_argument("--train-images", type=int, help="use only the first ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pretrain-epochs", type=int, default=5)
    parser.add_argument("--pretrain-lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    data = CIFARDataModule(root=options.root, verify=not options.no_verify, val_size=0, batch_size=options.batch_size)
    data.prepare_data()
    data.setup()
    images = Images(data, options.train_images, torch.device(options.device))
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        runs.append(run(seed, images, options))
        figures = {
            "what": "torchvision ResNet (one BasicBlock a stage, 3×3 stem of stride 2) trained plain, then trained on "
            "plain or as ACNet (init='preserve') and fused back into the stock model",
            "data": options.data_name,
            "settings": {
                "train_images": len(images.images),
                "test_images": len(data.test_set.images),
                "batch_size": options.batch_size,
                "optimizer": "SGD, Nesterov 0.9, weight decay 5e-4, cosine to 0 after a tenth of warm-up",
                "augmentation": "pad 4, random crop, flip",
                "precision": "bfloat16 autocast, channels last",
                "pretrain": {"epochs": options.pretrain_epochs, "lr": options.pretrain_lr},
                "further": {"epochs": options.epochs, "lr": options.lr},
            },
            "summary_percent": summary(runs),
            "runs": runs,
            "device": options.device,
            "threads": options.threads,
        }
        if options.out:
            write_record(options.out, figures)
    Console().print(table(runs))


if __name__ == "__main__":
    main()
