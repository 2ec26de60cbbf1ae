"""Configurations that are damaged or nonsense: a message and exit code 2, never a traceback, never a hang."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from acnet_pl.cli import main

GOOD = """
seed_everything: 3
name: fuzzed
model:
  backbone: {class_path: acnet_pl.backbones.ResNetCifar, init_args: {depth: 20}}
  conv: {class_path: acnet_pl.nn.ACBConv, init_args: {gamma_init: 0.333}}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data: {class_path: acnet_pl.data.DigitsDataModule, init_args: {batch_size: 64}}
trainer: {max_epochs: 2, accelerator: cpu}
nonfinite: {skip: 2}
"""
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda x: st.lists(x, max_size=3)
)


def parse(path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    code = main(["fit", "--config", str(path), "--print_config"])
    shown = capsys.readouterr()
    assert code == 0 or "acnet_pl" in shown.err, shown.err
    assert "Traceback" not in shown.err
    return code


fuzz = settings(deadline=None, derandomize=True, max_examples=25, phases=[Phase.explicit, Phase.generate])


def test_edited_text(tmp_path: Path, capsys: Any, record_property: Any) -> None:
    path, codes = tmp_path / "config.yaml", Counter[int]()

    @fuzz
    @given(
        edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 127)), min_size=1, max_size=3),
        cut=st.one_of(st.none(), st.none(), st.integers(0, len(GOOD))),
    )
    def edit(edits: list[tuple[int, int]], cut: int | None) -> None:
        text = bytearray(GOOD.encode())
        for where, value in edits:
            text[where] = value
        path.write_bytes(text[:cut])
        codes[parse(path, capsys)] += 1

    edit()
    record_property("attempts", codes.total())
    assert codes.keys() <= {0, 1, 2}
    assert min(codes[0], codes[2]) >= 2, codes  # some do no harm


def test_nonsense_in_the_place_of_a_value(tmp_path: Path, capsys: Any, record_property: Any) -> None:
    import yaml

    path, codes = tmp_path / "config.yaml", Counter[int]()
    keys = ["model", "model.backbone", "model.conv", "data", "trainer", "trainer.max_epochs", "nonfinite", "x"]

    @fuzz
    @given(key=st.sampled_from(keys), value=values)
    def replace(key: str, value: Any) -> None:
        config = yaml.safe_load(GOOD)
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        codes[parse(path, capsys)] += 1

    replace()
    record_property("attempts", codes.total())
    assert codes.keys() <= {0, 1, 2}
    assert min(codes[0], codes[2]) >= 2, codes


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"{" * 2000, b"a: &a [*a]", b"- 1\n- 2\n", b"!!python/object/apply:os.system [exit]"],
)
def test_what_is_no_configuration(content: bytes, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert parse(path, capsys) in (1, 2)


def test_an_empty_file_has_no_options(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.yaml").write_bytes(b"")
    assert parse(tmp_path / "config.yaml", capsys) == 0


def test_the_good_one_is_good(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.yaml").write_text(GOOD)
    assert parse(tmp_path / "config.yaml", capsys) == 0
