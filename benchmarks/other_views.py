"""What is written of records of other forms than that of ``reproduce``.

``h200`` and, in a sentence, ``h200_gain`` with network, epochs, contender and kernel draw, and a contender to compare
with if it is not plain, are those of h200_pairs.json; ``attempts`` with a row those of attacks.json; ``networks`` with
a row those of random_networks.json; ``int8`` with network and granularity those of int8.json; ``finetuned`` is that of
finetune.json; ``scales``, and ``scale`` with a block, are those of output_scales.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from acnet_pl.reproduce.grid import load_grid
from acnet_pl.reproduce.statistics import Sample, paired_difference
from acnet_pl.reproduce.statistics import adjusted as adjusted_p
from lookup import chosen
from view_cells import GAIN, gain_cells, said, signed, spread, table


def h200(record: Mapping[str, Any]) -> str:
    """The paired runs on an H200: a contender's gain is over the plain network of the same kernel draw."""
    titles = {
        "cifar_quick": "Cifar-quick",
        "resnet20": "ResNet-20",
        "plain": "plain",
        "acnet": "ACNet, γ = 1/3",
        "norm_after_sum": "one batch norm after the sum",
        "scaled": "scaled branches, one batch norm after the sum",
    }
    rows = []
    for (network, epochs), samples in _h200(record).items():
        pairs = {key: paired_difference(samples["plain", key[1]], samples[key]) for key in samples if key[0] != "plain"}
        adjusted = adjusted_p(pairs)
        for key in sorted(samples, key=lambda key: key[1]):
            cells = gain_cells(pairs.get(key), adjusted.get(key))
            draw = {"pytorch": "PyTorch's", "fan_out": "fan-out"}[key[1]]
            rows.append(
                [titles[network], epochs, draw, titles[key[0]], str(samples[key].n), spread(samples[key]), *cells]
            )
    return table(["network", "epochs", "kernel draw", "", "n", "top-1", "gain over plain", *GAIN], rows)


def h200_gain(
    record: Mapping[str, Any], network: str, epochs: str, contender: str, draw: str, base: str = "plain"
) -> str:
    """A gain of these runs in a sentence, over plain or another contender."""
    found = {" ".join(key): samples for key, samples in _h200(record).items()}
    samples = {" ".join(key): sample for key, sample in chosen(found, f"{network} {epochs}", "length of runs").items()}
    plain, own = (chosen(samples, f"{one} {draw}", "contender and kernel draw") for one in (base, contender))
    return said(paired_difference(plain, own))


def _h200(record: Mapping[str, Any]) -> dict[tuple[str, str], dict[tuple[str, str], Sample]]:
    """By network and epochs, the accuracies by contender and kernel draw."""
    found = {}
    for heading, contenders in record["top1_test_last_epoch"].items():
        network, epochs = heading.split(" epochs")[0].split(", ")
        found[network, epochs] = {
            (name.removesuffix("_torchinit"), "pytorch" if name.endswith("_torchinit") else "fan_out"): Sample(
                dict(enumerate(values))
            )
            for name, values in contenders.items()
        }
    return found


def attempts(record: Mapping[str, Any], row: str) -> str:
    """How many attempts of a row of benchmarks/attacks.py were held."""
    count = chosen(record["rows"], row, "row")
    return f"{count['held']:,} of {count['attempts']:,} attempts held"


def networks(record: Mapping[str, Any], what: str) -> str:
    """What tests/nn/test_random_networks.py counted of one of the things that it makes of a network."""
    counts = chosen(record["rows"], what.replace("_", " "), "row")
    return ", ".join(f"{count:,} {how}" for how, count in counts.items())


def int8(record: Mapping[str, Any], network: str, granularity: str) -> str:
    """How static quantisation changed accuracy."""
    figures = chosen({name.split()[0]: found for name, found in record["summary_percent"].items()}, network, "network")
    changes = [0.0 - drop for drop in chosen(figures, f"int8_{granularity}", "figure")["drops"]]
    return f"{signed(fmean(changes))} points ({', '.join(map(signed, changes))})"


def finetuned(record: Mapping[str, Any]) -> str:
    """The gain of training on as an ACNet over training on plain, both in the stock network."""
    plain, acnet = (
        Sample({run["seed"]: 100 * run[name] for run in record["runs"]}) for name in ("plain", "acnet_in_stock")
    )
    return said(paired_difference(plain, acnet))


def scales(record: Mapping[str, Any]) -> str:
    """The output scale that each block of `reproduce blocks` starts at."""
    titles = {variant.key: variant.title for variant in load_grid("blocks").variants}
    measured = {name: found for name, found in record["scales"].items() if name in titles}
    rows = [[titles[name], *(f"{value:.2f}" for value in found.values())] for name, found in measured.items()]
    return table(["new block", *next(iter(measured.values()))], rows)


def scale(record: Mapping[str, Any], name: str) -> str:
    """The output scale that a block starts at in a layer that changes the number of channels."""
    return f"{chosen(record['scales'], name, 'block')['32 to 64, 5×5']:.2f}"


INLINE: dict[str, Callable[..., str]] = {
    view.__name__: view for view in (h200_gain, attempts, networks, int8, finetuned, scale)
}
TABLES: dict[str, Callable[..., str]] = {view.__name__: view for view in (h200, scales)}
