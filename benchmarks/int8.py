"""What does INT8 cost a fused ACNet, and what a plain network? Post-training static quantisation by onnxruntime.

Re-parameterised networks can have wider weight and activation ranges than plain ones and then lose more. Both networks
are fused, exported to ONNX and quantised with the same calibration images (training images without augmentation),
weights per tensor and per channel; then tested on all test images.

    python benchmarks/int8.py --root data --plain runs/PLAIN/TIME/checkpoints/last.ckpt \\
        --acnet runs/ACNET/TIME/checkpoints/last.ckpt --out results/cifar10/int8.json

Several checkpoints after ``--plain`` and ``--acnet`` are runs of several seeds. A fused.safetensors will do as well.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table
from torch import nn

from acnet_pl.checkpoint import load_network
from acnet_pl.data import CIFARDataModule
from acnet_pl.deploy import load_fused
from acnet_pl.export import export_model
from acnet_pl.nn import fuse_model
from record import write_record

Batches = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
CALIBRATIONS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds onnxruntime the calibration images."""

    def __init__(self, batches: Batches) -> None:
        self.batches: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch[0]}


def load(path: Path) -> nn.Module:
    """A fused network out of a checkpoint or a fused.safetensors."""
    return load_fused(path) if path.suffix == ".safetensors" else fuse_model(load_network(path)[0])


def accuracy(path: Path, batches: Batches, threads: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    correct = sum(int((session.run(None, {"images": x})[0].argmax(1) == labels).sum()) for x, labels in batches)
    return correct / sum(len(labels) for _, labels in batches)


def weight_ranges(network: nn.Module) -> list[float]:
    """Of each convolution: how many standard deviations its largest weight is, which a per-tensor scale must span."""
    return [
        round((conv.weight.abs().max() / conv.weight.std()).item(), 2)
        for conv in network.modules()
        if isinstance(conv, nn.Conv2d)
    ]


def measure(checkpoint: Path, calibration: Batches, test: Batches, options: argparse.Namespace) -> dict[str, Any]:
    """Export, quantise in both ways and test one network."""
    network = load(checkpoint)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        exported, prepared, quantised = (Path(name, f"{stage}.onnx") for stage in ("fp32", "prepared", "int8"))
        example = torch.from_numpy(test[0][0])
        export_model(network, exported, "onnx", example_input=example, dynamic_batch=True)
        result["fp32"] = accuracy(exported, test, options.threads)
        quant_pre_process(exported, prepared)
        for label, per_channel in (("int8_per_tensor", False), ("int8_per_channel", True)):
            quantize_static(
                prepared,
                quantised,
                Calibration(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CALIBRATIONS[options.calibration],
            )
            result[label] = accuracy(quantised, test, options.threads)
    result["largest_weight_in_standard_deviations"] = weight_ranges(network)
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and drop in per cent and percentage points: mean over the runs and each."""
    result: dict[str, Any] = {"n": len(runs), "fp32": round(statistics.mean(100 * run["fp32"] for run in runs), 3)}
    for label in ("int8_per_tensor", "int8_per_channel"):
        drops = [round(100 * (run["fp32"] - run[label]), 3) for run in runs]
        result[label] = {"drop_mean": round(statistics.mean(drops), 3), "drops": drops}
    return result


def table(summaries: dict[str, Any]) -> Table:
    result = Table("", "runs", "FP32 %", "drop per tensor", "drop per channel", title="INT8, percentage points")
    for name, each in summaries.items():
        drops = (each[label]["drop_mean"] for label in ("int8_per_tensor", "int8_per_channel"))
        result.add_row(name, str(each["n"]), f"{each['fp32']:.2f}", *(f"{drop:.2f}" for drop in drops))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--data-name", default="CIFAR-10", help="what to call the images in the results")
    parser.add_argument("--no-verify", action="store_true", help="the batches are a copy with other checksums")
    parser.add_argument("--plain", type=Path, nargs="+", required=True)
    parser.add_argument("--acnet", type=Path, nargs="+", required=True)
    parser.add_argument("--about", default="", help="how the networks were trained, for the results")
    parser.add_argument("--calibration", choices=CALIBRATIONS, default="minmax")
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime advises what has been done already

    data = CIFARDataModule(root=options.root, verify=not options.no_verify, val_size=0, batch_size=128)
    data.prepare_data()
    data.setup()

    def batches(images: torch.Tensor, labels: torch.Tensor) -> Batches:
        return [
            (data.normalize(x).contiguous().numpy(), y.numpy())
            for x, y in zip(torch.split(images, 100), torch.split(labels, 100), strict=True)
        ]

    count = options.calibration_images
    calibration = batches(data.train_set.images[:count], data.train_set.labels[:count])
    test = batches(data.test_set.images, data.test_set.labels)
    runs = {
        name: [measure(path, calibration, test, options) for path in paths]
        for name, paths in (("plain", options.plain), ("acnet folded", options.acnet))
    }
    summaries = {name: summary(each) for name, each in runs.items()}
    Console().print(table(summaries))
    if options.out:
        figures = {
            "what": "post-training static quantisation, QDQ, activations uint8, weights int8",
            "networks": options.about,
            "data": options.data_name,
            "test_images": len(data.test_set.images),
            "calibration": {"method": options.calibration, "images": count},
            "summary_percent": summaries,
            "runs": runs,
        }
        write_record(options.out, figures, "onnx", "onnxruntime")


if __name__ == "__main__":
    main()
