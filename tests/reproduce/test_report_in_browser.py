"""The report in headless Chromium: what is there is also seen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.plots import Series, heat_map, line_chart
from acnet_pl.reproduce.report import write_report
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.settings import SettingsParser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

# Writes into the page how large each table and figure is drawn, what is wider than the page, and where gains stand.
MEASURE = """<script>
const open = e => !e.closest("details:not([open])");
const right = e => e.getBoundingClientRect().right;
const out = document.createElement("pre"); out.id = "measured";
out.textContent = JSON.stringify({
  boxes: [...document.querySelectorAll("table, img")].filter(open).map(e => {
    const r = e.getBoundingClientRect();
    return {tag: e.tagName, width: r.width, height: r.height, shown: e.checkVisibility()};
  }),
  page: document.documentElement.clientWidth,
  gains: [...document.querySelectorAll("td.gain, td.loss, td.fall")].map(right),
  widest: Math.max(...[...document.querySelectorAll("main *")].filter(e => open(e) && !e.closest("pre")).map(right)),
});
document.body.append(out);
</script></body>"""


def browse(tmp_path: Path, page: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def measure(tmp_path: Path, page: Path, *options: str) -> Any:
    copy = tmp_path / "measured.html"
    copy.write_text(page.read_text().replace("</body>", MEASURE))
    dom = browse(tmp_path, copy, "--dump-dom", *options)
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, parser: SettingsParser, fabricate: Callable[..., Path]) -> Path:
    tmp_path = tmp_path_factory.mktemp("page")
    options = Options(("table1",), seeds=(0, 1), epochs=5, runs_dir=tmp_path / "runs")
    grid, runs = make_plan(options, parser)["table1"]
    for number, run in enumerate(runs[:-3]):
        fabricate(run, 0.9 + 0.001 * number)
    result = GridResult(grid, [RunResult.of(run) for run in runs], "article", "last", 5)
    return write_report(tmp_path / "report", {"table1": result}, ["python"])


# Long labels, which need more than one line of a legend.
LABELS = ["plain", "both, one batch norm after the sum", "horizontal kernels only", "vertical kernels only", "border"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("kind", ["lines", "map"])
def test_no_text_of_a_chart_lies_on_another_or_is_cut(kind: str, tmp_path: Path) -> None:
    if kind == "lines":
        series = [Series(label, style, [(0, 0.0), (50, 99.9)]) for style, label in enumerate(LABELS)]
        chart = line_chart(series, "Both, one batch norm after the sum", "weights removed (%)", "top-1 (%)")
    else:
        chart = heat_map([[0.123] * 5] * 5, "ACNet, both, one batch norm after the sum, border")
    page = tmp_path / "chart.html"
    script = """<pre id="measured"></pre><script>
    const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
    document.getElementById("measured").textContent = JSON.stringify({
      texts: [...document.querySelectorAll("text")].map(e => [e.textContent, ...box(e)]),
      chart: box(document.querySelector("svg")),
    });</script>"""
    page.write_text(f"<!doctype html>{chart.light[chart.light.index('<svg') :]}{script}")
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', browse(tmp_path, page, "--dump-dom"), re.DOTALL)
    measured = json.loads(found)
    boxes = [box for _, *box in measured["texts"]]
    assert len(boxes) > 10
    if kind == "lines":
        assert {*LABELS} < {text for text, *_ in measured["texts"]}
    left, top, right, bottom = measured["chart"]
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        assert left - 1 <= x1 <= x2 <= right + 1
        assert top - 1 <= y1 <= y2 <= bottom + 1
        for u1, v1, u2, v2 in boxes[index + 1 :]:
            assert u1 >= x2 - 1 or u2 <= x1 + 1 or v1 >= y2 - 2 or v2 <= y1 + 2, (measured["texts"][index], boxes)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_tables_and_figures_are_seen(page: Path, tmp_path: Path) -> None:
    measured = measure(tmp_path, page, "--window-size=1200,1000")
    tables = [box for box in measured["boxes"] if box["tag"] == "TABLE"]
    charts = [box for box in measured["boxes"] if box["tag"] == "IMG"]
    assert len(tables) == 3
    assert len(charts) == 15
    assert all(box["shown"] and box["width"] > 200 and box["height"] > 40 for box in measured["boxes"])

    shot = tmp_path / "page.png"
    browse(tmp_path, page, f"--screenshot={shot}", "--window-size=1200,1600")
    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        colours = picture.convert("RGB").getcolors(1200 * 1600)
    assert colours is not None
    assert len(colours) > 100
    background = max(count for count, _ in colours)
    assert 0.5 < background / (1200 * 1600) < 0.97


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_on_a_phone_gains_are_on_the_screen(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    framed = tmp_path / "phone.html"
    # Headless Chromium has no windows as narrow as a phone: what the page does below its breakpoint, it is told to do.
    narrow = text.replace("<main>", '<main style="width: 390px; margin: 0">')
    framed.write_text(narrow.replace("@media (max-width: 44rem)", "@media all"))
    measured = measure(tmp_path, framed, "--window-size=500,1000")
    assert measured["gains"]
    assert max(measured["gains"]) <= 390
    assert measured["widest"] <= 390
