"""The report in headless Chromium: what is there is also seen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from acnet_pl.reproduce.charts import Series, line_chart
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.report import write_report
from acnet_pl.reproduce.results import GridResult, RunResult
from acnet_pl.reproduce.settings import SettingsParser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

# Writes into the page how large each table and figure is drawn, and where its parts stick out of their box.
MEASURE = """<script>
const boxes = [...document.querySelectorAll("table, svg")].filter(e => !e.closest("details:not([open])")).map(e => {
  const r = e.getBoundingClientRect();
  const cut = e.tagName === "svg" ? [...e.querySelectorAll("text")].filter(t => {
    const b = t.getBoundingClientRect();
    return b.left < r.left - 1 || b.right > r.right + 1 || b.top < r.top - 1 || b.bottom > r.bottom + 1;
  }).map(t => t.textContent) : [];
  return {tag: e.tagName, width: r.width, height: r.height, shown: e.checkVisibility(), cut};
});
const out = document.createElement("pre"); out.id = "measured"; out.textContent = JSON.stringify(boxes);
document.body.append(out);
</script></body>"""


def browse(tmp_path: Path, page: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def page(tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]) -> Path:
    options = Options(("table1",), seeds=(0, 1), epochs=5, runs_dir=tmp_path / "runs")
    grid, runs = make_plan(options, parser)["table1"]
    for number, run in enumerate(runs[:-3]):
        fabricate(run, 0.9 + 0.001 * number)
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    return write_report(tmp_path / "report", {"table1": result}, ["python"])


# Long labels, which need more than one line of a legend.
LABELS = ["plain", "both, one batch norm after the sum", "horizontal kernels only", "vertical kernels only", "border"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_legend_overlaps_neither_itself_nor_the_curves(tmp_path: Path) -> None:
    chart = line_chart(
        [Series(label, style, [(0, 0.0), (50, 99.9)]) for style, label in enumerate(LABELS)], "t", "x", "y"
    )
    page = tmp_path / "chart.html"
    script = """<pre id="measured"></pre><script>
    const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
    document.getElementById("measured").textContent = JSON.stringify({
      texts: [...document.querySelectorAll("text")].map(e => [e.textContent, ...box(e)]),
      grid: Math.min(...[...document.querySelectorAll(".grid")].map(e => box(e)[1])),
      right: box(document.querySelector("svg"))[2],
    });</script>"""
    page.write_text(f"<!doctype html><style>text {{ font: 11px sans-serif }}</style>{chart}{script}")
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', browse(tmp_path, page, "--dump-dom"), re.DOTALL)
    measured = json.loads(found)
    boxes = {text: box for text, *box in measured["texts"] if text in LABELS}
    assert set(boxes) == set(LABELS)
    for left, top, right, bottom in boxes.values():
        assert right <= measured["right"]
        assert bottom <= measured["grid"] + 1
        others = [box for box in boxes.values() if box != [left, top, right, bottom]]
        assert all(x1 >= right or x2 <= left or y1 >= bottom or y2 <= top for x1, y1, x2, y2 in others)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_tables_and_figures_are_seen(page: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured.html"
    measured.write_text(page.read_text().replace("</body>", MEASURE))
    dom = browse(tmp_path, measured, "--dump-dom", "--window-size=1200,1000")
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
    boxes = json.loads(found)
    tables = [box for box in boxes if box["tag"] == "TABLE"]
    charts = [box for box in boxes if box["tag"] == "svg"]
    assert len(tables) == 3
    assert len(charts) == 5
    assert all(box["shown"] and box["width"] > 200 and box["height"] > 40 for box in boxes)
    assert all(box["cut"] == [] for box in charts)

    shot = tmp_path / "page.png"
    browse(tmp_path, page, f"--screenshot={shot}", "--window-size=1200,1600")
    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        colours = picture.convert("RGB").getcolors(1200 * 1600)
    assert colours is not None
    assert len(colours) > 100
    background = max(count for count, _ in colours)
    assert 0.5 < background / (1200 * 1600) < 0.97
