from __future__ import annotations

import base64
import json
import re
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import ttest_rel

from acnet_pl.analysis import LOCATIONS
from acnet_pl.deploy import save_fused
from acnet_pl.modules.architecture import build_network
from acnet_pl.nn import fuse_model
from acnet_pl.reproduce import TARGETS, plots
from acnet_pl.reproduce.costs import gain_over_cost
from acnet_pl.reproduce.elements import Points, Section
from acnet_pl.reproduce.grid import load_grid
from acnet_pl.reproduce.headline import headlines
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.render import render
from acnet_pl.reproduce.report import correlations, write_report
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.settings import SettingsParser
from acnet_pl.reproduce.tables import main_tables

PLAIN, ACNET = (0.830, 0.836, 0.827), (0.842, 0.845, 0.836)


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory, parser: SettingsParser, fabricate: Callable[..., Path]
) -> tuple[Path, GridResult]:
    """Table 1 with Cifar-quick finished, one pair of VGG-16, one failed run, and the rest not begun."""
    runs_dir = tmp_path_factory.mktemp("runs")
    options = Options(("table1",), seeds=(0, 1, 2), epochs=5, runs_dir=runs_dir)
    grid, runs = make_plan(options, parser)["table1"]
    for run in runs:
        if run.run.model == "cifar_quick":
            fabricate(run, (PLAIN if run.run.variant == "plain" else ACNET)[run.run.seed])
        elif run.run.model == "vgg16" and run.run.seed == 1:
            fabricate(run, 0.9 if run.run.variant == "plain" else 0.91)
        elif run.run.name == "resnet56_staircase-acb-seed0":
            fabricate(run)
    results = [RunResult.of(run, failed=run.run.name == "resnet56_staircase-acb-seed0") for run in runs]
    result = GridResult(grid, results, "article", "last", 5)
    write_report(
        runs_dir / "reproduce" / "table1", {"table1": result}, ["python", "-m", "acnet_pl", "reproduce", "x y"]
    )
    return runs_dir / "reproduce" / "table1", result


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts without content, for tests that do not look at them: drawing takes most of a report's time."""
    monkeypatch.setattr(plots, "_svg", lambda figure: "<svg/>")


def test_the_json_holds_mean_std_and_pairs(report: tuple[Path, GridResult]) -> None:
    content = json.loads((report[0] / "results.json").read_text())["grids"]["table1"]
    figures = {(one["model"], one["variant"]): one for one in content["figures"]}
    acnet = figures["cifar_quick", "acb"]
    assert acnet["percent"]["mean"] == pytest.approx(100 * statistics.fmean(ACNET))
    assert acnet["percent"]["std"] == pytest.approx(100 * statistics.stdev(ACNET))
    gains = [100 * (b - a) for a, b in zip(PLAIN, ACNET, strict=True)]
    assert acnet["gain"]["mean"] == pytest.approx(statistics.fmean(gains))
    low, high = acnet["gain"]["interval"]
    half = 4.302653 * statistics.stdev(gains) / 3**0.5  # Student's t, two degrees of freedom, 97.5 %
    assert (low, high) == pytest.approx((statistics.fmean(gains) - half, statistics.fmean(gains) + half), rel=1e-5)
    assert acnet["published"]["article, Table 1"] == {"percent": 84.24, "recipe": "article"}
    one_pair = figures["vgg16", "acb"]["gain"]
    assert (one_pair["n"], one_pair["std"], one_pair["interval"]) == (1, None, None)
    assert figures["densenet40", "acb"]["percent"]["n"] == 0
    assert (content["runs_finished"], content["runs_planned"]) == (8, 30)
    assert content["departures"]["trainer.max_epochs"] == ["200 → 5", "800 → 5"]


def test_the_markdown_marks_what_is_missing_and_what_departs(report: tuple[Path, GridResult]) -> None:
    text = (report[0] / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| Cifar-quick |")]
    assert row.endswith("| 3 | 83.13 | 84.24 | +1.11 | 86.20 | 86.87 | +0.67 |")
    assert "| 83.10 ± 0.46 | 84.10 ± 0.46 | **+1.00 ± 0.17** | +0.57 to +1.43 | +1.20, +0.90, +0.90 | 3 |" in row
    (row,) = [line for line in text.splitlines() if line.startswith("| VGG-16 |")]
    assert "| 90.00 (1 of 3) |" in row
    assert "| needs 2 pairs |  | +1.00 | 1 |" in row  # no gain without an interval
    (row,) = [line for line in text.splitlines() if line.startswith("| DenseNet-40 |")]
    assert row.count("—") == 2
    assert "8 of 30 runs" in text
    assert "Cifar-quick: the number of seeds and epochs was not recorded before the first run." in text
    assert "same 10,000 images" in text
    assert "± 0.4 points (one standard error)" in text  # the square root of 0.83 * 0.17 / 10,000
    assert "last five evaluations" in text
    assert "depart from the recipe" in text
    assert "authors' code (another recipe)" in text
    assert "test accuracy of the last epoch's weights" in text


@pytest.mark.usefixtures("undrawn")
def test_several_gains_have_p_values_adjusted_for_being_several(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    grid, runs = make_plan(
        Options(("cheaper",), ("cifar_quick",), seeds=(0, 1, 2), epochs=2, runs_dir=tmp_path), parser
    )["cheaper"]
    rng = np.random.default_rng(0)
    accuracy = {run.run.name: 0.8 + 0.01 * rng.normal() for run in runs}
    for run in runs:
        fabricate(run, accuracy[run.run.name])
    result = GridResult(grid, [RunResult.of(run) for run in runs], "cosine", "last", 5)
    figures = result.as_dict()["figures"]
    assert "gain" not in figures[0]

    def of(variant: str) -> list[float]:
        return [accuracy[run.run.name] for run in runs if run.run.variant == variant]

    p = {variant.key: ttest_rel(of(variant.key), of("plain")).pvalue for variant in grid.variants[1:]}
    assert len(p) == len(grid.variants) - 1 > 1
    largest = 0.0
    for rank, (variant, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        (gain,) = [one["gain"] for one in figures if one["variant"] == variant]
        assert gain["p"] == pytest.approx(value)
        assert gain["p_holm"] == pytest.approx(largest)
        assert gain["comparisons"] == len(p)
    page = write_report(tmp_path / "out", {"cheaper": result}, [])
    assert "p (Holm)" in page.with_suffix(".md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_runs_of_several_devices_are_marked(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    grid, runs = make_plan(Options(("table1",), ("cifar_quick",), seeds=(0,), epochs=2, runs_dir=tmp_path), parser)[
        "table1"
    ]
    for run in runs:
        summary = fabricate(run, 0.8) / "summary.json"
        if run.run.variant == "acb":
            summary.write_text(summary.read_text().replace("a device", "another device"))
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    assert result.mixed == ["device: a device (1 runs), another device (1 runs)"]
    assert "no fingerprint of the data" in result.fingerprint_remark
    text = write_report(tmp_path / "out", {"table1": result}, []).with_suffix(".md").read_text()
    assert "another device (1 runs)" in text.partition("| Cifar-quick |")[0]


def test_unknown_versions_other_data_and_copies_are_marked(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    options = Options(("table1",), ("cifar_quick",), seeds=(0, 1), epochs=2, runs_dir=tmp_path)
    grid, runs = make_plan(options, parser)["table1"]
    changes: list[dict[str, Any]] = [
        {"versions": {}, "data_fingerprint": "aa"},
        {"versions": {}, "data_fingerprint": "bb"},
        {"rotation": {"samples": 100, "original/top1": 0.8}},
        {},
    ]
    for run, change in zip(runs, changes, strict=True):
        path = fabricate(run, 0.81 if run.run.variant == "acb" else 0.8) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    found = dict(remark.split(": ", 1) for remark in result.mixed)
    assert found["torch"] == "unknown (2 runs), 2.9 (2 runs)"
    assert found["data, by fingerprint"] == "aa (1 runs), bb (1 runs), unknown (2 runs)"
    assert found["test images"] == "10,000 (3 runs), 100 (1 runs)"
    assert "COPIED? cifar_quick_staircase-acb-seed0, cifar_quick_staircase-acb-seed1" in found
    assert result.test_images is None
    assert len(result.time_ratios("cifar_quick", "acb")) == 1, "unknown devices are not one kind of device"


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_summary_is_left_out_and_named(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    options = Options(("table1",), ("cifar_quick",), seeds=(0, 1), epochs=2, runs_dir=tmp_path)
    grid, runs = make_plan(options, parser)["table1"]
    damages: list[dict[str, object]] = [
        {"metrics": {"test/top1": 10**400}},
        {"engine": "graphs"},
        {"versions": {"torch": {"cuda": 1}}},
        {},
    ]
    for run, damage in zip(runs, damages, strict=True):
        path = fabricate(run, 0.8) / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    metrics = path.parent / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("1,15,0.5", "1,15,nan"))  # a training that diverged has a curve
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    assert result.finished == 1
    assert [text.partition("summary.json: ")[2].partition(" ")[0] for text in result.damaged] == [
        *("`metrics/test/top1`", "`engine`", "`versions/torch`"),
    ]
    report = write_report(tmp_path / "out", {"table1": result}, [])
    text = report.with_suffix(".md").read_text()
    (curve,) = [run["curve"] for run in result.as_dict()["runs"] if run["state"] == "finished"]
    assert [one["train_loss"] for one in curve] == [0.75, pytest.approx(float("nan"), nan_ok=True)]
    assert "left out here because their summaries are damaged" in text
    assert "is a str, expected names and values" in text


def test_a_run_from_before_testing_in_float32_has_the_accuracy_of_its_equivalence_check(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    grid, (run, *_) = make_plan(
        Options(("table1",), ("cifar_quick",), seeds=(0,), epochs=2, runs_dir=tmp_path), parser
    )["table1"]
    folder = fabricate(run, 0.8)
    summary = json.loads((folder / "summary.json").read_text())
    summary["equivalence"]["fused_accuracy"] = 0.7999
    (measure,) = grid.measures
    for evaluated, expected in ((True, 0.8), (False, 0.7999)):
        if not evaluated:
            del summary["evaluated"]
        (folder / "summary.json").write_text(json.dumps(summary))
        assert RunResult.of(run).figure(measure) == expected


def test_links_to_runs_are_relative_and_lead_there(report: tuple[Path, GridResult]) -> None:
    folder, _ = report
    links = re.findall(r'<td class="label"[^>]*><a href="([^"]+)"', (folder / "report.html").read_text())
    assert len(links) == 9
    assert all(not Path(link).is_absolute() and (folder / link / "config.yaml").is_file() for link in links)


class Tags(HTMLParser):
    """Collects what a browser would fetch, and whether all tags are closed."""

    VOID = ("meta", "link", "br", "img", "source")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset") or (name == "href" and tag == "link"):
                self.fetched.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing(report: tuple[Path, GridResult]) -> None:
    text = (report[0] / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(address.startswith("data:") for address in tags.fetched)
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert tags.count["table"] >= 3
    assert tags.count["img"] == tags.count["picture"] == 9  # three courses of each network with a run
    svg = base64.b64decode(tags.fetched[1].rpartition(",")[2]).decode()
    ElementTree.fromstring(svg)
    assert "Cifar-quick" in svg


def test_the_page_escapes_what_it_is_given(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    options = Options(("digits",), models=("resnet8",), variants=("plain",), seeds=(0,), runs_dir=tmp_path / "<b>&")
    grid, runs = make_plan(options, parser)["digits"]
    fabricate(runs[0], 0.9)
    result = GridResult(grid, [RunResult.of(run) for run in runs], "digits", "last", 5)
    page = write_report(tmp_path / "out", {"digits": result}, ["<script>"]).read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    points = Points("Versions", ["![a](b)\n# c", "<b>|*_`"])
    text = render("report.md", "", "", [Section("", "", [points])])
    assert r"!\[a\](b) # c" in text
    assert r"\<b\>\|\*\_\`" in text


@pytest.mark.parametrize(("theme", "page"), [(plots.LIGHT, "#ffffff"), (plots.DARK, "#14171a")])
def test_every_variant_and_place_has_a_colour_that_stands_out(theme: plots.Theme, page: str) -> None:
    most = max(len(load_grid(name).variants) for name in TARGETS)
    assert len({*theme.colours}) == len(theme.colours) >= max(most, len(LOCATIONS))

    def luminance(colour: str) -> float:
        """Relative luminance (WCAG 2.2)."""
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(colour: str) -> float:
        low, high = sorted((luminance(colour), luminance(page)))
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, theme.colours)) >= 3  # of graphics
    assert min(map(contrast, (theme.ink, theme.soft))) >= 4.5  # of text


@pytest.mark.usefixtures("undrawn")
def test_what_training_costs_stands_beside_what_it_gains(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    grid, runs = make_plan(Options(("cheaper",), ("cifar_quick",), seeds=(0, 1, 2), runs_dir=tmp_path), parser)[
        "cheaper"
    ]
    seconds = {"plain": (10, 20, 10), "acb": (20, 50, 19), "acb_scaled": (11, 21, 9)}
    for run in runs:
        if run.run.variant in seconds and (run.run.variant, run.run.seed) != ("acb", 2):
            fabricate(run, 0.9, seconds=seconds[run.run.variant][run.run.seed])
    result = GridResult(grid, [RunResult.of(run) for run in runs], "cosine", "last", 5)
    text = write_report(tmp_path, {"cheaper": result}, []).with_name("report.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    ends = {row[0]: tuple(row[-2:]) for row in rows}
    macs = {run.run.variant: run.cost.macs for run in runs}
    full = macs["acb"] / macs["plain"]
    assert ends["plain"] == ("1.00", "1.00")
    assert ends["ACNet"] == (f"{full:.2f}", "2.25")
    assert ends["scaled branches, one batch norm after the sum"] == ("1.00", "1.05")
    assert ends["ACNet, fused after half of the epochs"] == (f"{(1 + full) / 2:.2f}", "—")
    cost = {run.run.variant: run.cost for run in runs}
    kept, parameters = (
        f"{getattr(cost['acb'], name) / getattr(cost['plain'], name):.2f}" for name in ("kept_bytes", "parameters")
    )
    assert next(row for row in rows if row[0] == "ACNet")[-4:-2] == [parameters, kept]
    assert [chart.title for chart in gain_over_cost(result)] == [
        f"Cifar-quick: gain in Top-1 (points) by {kind} (× plain)"
        for kind in ("multiplications", "kept activations", "time")
    ]


def test_blocks_that_are_half_finished_stand_side_by_side(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    """Three pairs of ACNet, two of DBB, one of RepVGG, and of the others none."""
    variants = ("plain", "acb", "dbb", "repvgg", "orepa")
    grid, runs = make_plan(Options(("blocks",), variants=variants, seeds=(0, 1, 2), runs_dir=tmp_path), parser)[
        "blocks"
    ]
    accuracy = {"plain": (0.75, 0.77, 0.76), "acb": (0.76, 0.775, 0.775), "dbb": (0.77, 0.78), "repvgg": (0.8,)}
    for run in runs:
        if run.run.seed < len(accuracy.get(run.run.variant, ())):
            fabricate(run, accuracy[run.run.variant][run.run.seed], seconds=20 if run.run.variant == "dbb" else 10)
    result = GridResult(grid, [RunResult.of(run) for run in runs], "cosine", "last", 5)
    (table,) = main_tables(result)
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    # Gain and interval by hand: differences 1, 0.5, 1.5 have mean 1 and deviation 0.5, and t(2) is 4.303.
    assert rows["ACNet"][1:4] == ["77.00 ± 0.87", "+1.00 ± 0.50", "\N{MINUS SIGN}0.24 to +2.24"]
    assert rows["DBB"][1:4] == ["77.50 ± 0.71 (2 of 3)", "+1.50 ± 0.71", "\N{MINUS SIGN}4.85 to +7.85"]
    assert rows["RepVGG"][1:3] == ["80.00 (1 of 3)", "needs 2 pairs"]
    assert rows["OREPA, online"][1] == "—"
    assert (rows["DBB"][-1], rows["ACNet"][-1], rows["OREPA, online"][-1]) == ("2.00", "1.00", "—")
    for chart in gain_over_cost(result):
        assert [name for name in ("plain", "ACNet", "DBB", "RepVGG") if f">{name}<" in chart.light] == [
            "plain",
            "ACNet",
            "DBB",
        ]
    x, y = 100 * np.array(accuracy["plain"]), 100 * np.array(accuracy["acb"])
    (sentence,) = correlations(result)
    assert f"ACNet: {np.corrcoef(x, y)[0, 1]:+.2f} (n = 3, too few for an interval). With" in sentence
    assert "DBB" not in sentence


@pytest.mark.parametrize(
    ("plain", "acnet", "said"),
    [
        ((0.80, 0.81, 0.80), (0.81, 0.82, 0.811), "+1.03 points (95% interval +0.89 to +1.18, 3 pairs)."),
        ((0.80, 0.81, 0.80), (0.79, 0.79, 0.80), "the interval includes zero, so this may be chance."),
        (
            (0.79, 0.79, 0.80),
            (0.80, 0.81, 0.80),
            "this may be chance; to find a gain of this size takes about 10 pairs, fixed before the first run.",
        ),
        ((0.80,), (0.81,), ", from one pair of runs; an interval needs at least two pairs."),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_headline_says_what_came_out_and_what_it_would_take(
    plain: tuple[float, ...],
    acnet: tuple[float, ...],
    said: str,
    tmp_path: Path,
    parser: SettingsParser,
    fabricate: Callable[..., Path],
) -> None:
    options = Options(("table1",), ("cifar_quick",), seeds=tuple(range(len(plain))), epochs=2, runs_dir=tmp_path)
    grid, runs = make_plan(options, parser)["table1"]
    for run in runs:
        fabricate(run, (plain if run.run.variant == "plain" else acnet)[run.run.seed])
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    page = write_report(tmp_path / "out", {"table1": result}, []).read_text()
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', page)
    assert headline.startswith(
        "Cifar-quick: ACNet 8" if acnet[0] >= 0.8 else "Cifar-quick: ACNet 79.33 % against plain 80.33 %"
    )
    assert headline.endswith(said)
    kinds = re.findall(r'<td class="(gain|loss|fall)"', page)
    assert kinds == (["gain"] if "+1.03" in said else ["fall"] if said.endswith("chance.") else [])


def test_equal_gains_have_no_interval_and_pairs_alone_are_told_from_all_runs(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    options = Options(("table1",), ("cifar_quick",), seeds=(0, 1, 2), epochs=2, runs_dir=tmp_path)
    grid, runs = make_plan(options, parser)["table1"]
    for run in runs:
        acnet = run.run.variant == "acb"
        fabricate(run, None if acnet and run.run.seed == 2 else (0.7801, 0.7814, 0.9)[run.run.seed] + 0.01 * acnet)
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    assert list(headlines(result)) == [
        "Cifar-quick: ACNet 79.08 % against plain 78.08 %, +1.00 points (2 pairs without spread, so there is no "
        "interval); these accuracies are of the pairs alone, those of the table of all finished runs."
    ]
    (table,) = main_tables(result)
    cells = [cell.text for cell in table.rows[0]]
    assert cells[cells.index("+1.00 ± 0.00") + 1] == "—"


@pytest.mark.usefixtures("undrawn")
def test_pruning_curves_that_are_still_to_be_computed_are_named(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    grid, runs = make_plan(Options(("digits",), seeds=(0,), epochs=2, runs_dir=tmp_path), parser)["digits"]
    pruned = [run for run in runs if grid.prunes(run.run)]
    assert len(pruned) > 1
    folders = [fabricate(run, 0.9) for run in runs]

    def text() -> str:
        result = GridResult(grid, [RunResult.of(run) for run in runs], "digits", "last", 1)
        write_report(tmp_path / "report", {"digits": result}, ["reproduce"])
        return (tmp_path / "report" / "report.md").read_text()

    assert "The analysis" not in text()  # of networks that were not written there is nothing to compute
    for run, folder in zip(runs, folders, strict=True):
        if run in pruned[1:]:
            parts = {key: {"init_args": {}, **run.config["model"][key]} for key in ("backbone", "conv")}
            network = fuse_model(build_network(parts["backbone"], parts["conv"], 10).eval())
            save_fused(network, folder / "fused.safetensors", {**parts, "num_classes": 10})
    notice = (
        text().partition("The analysis 'pruning' is not computed")[2].partition("|")[0].replace("\\", "")
    )  # a table comes next
    assert "without --report-only" in notice
    assert [run.run.name for run in pruned if run.run.name in notice] == [run.run.name for run in pruned[1:]]
