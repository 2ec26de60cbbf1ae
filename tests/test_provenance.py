"""Versions and hardware beside figures."""

import os
from importlib.metadata import version

import torch

from acnet_pl.provenance import device_name, versions


def test_versions_are_those_of_the_installed_packages():
    found = versions()
    assert found["torch"] == version("torch") == torch.__version__.partition("+")[0]
    assert found["device"] == device_name()


def test_the_processor_is_named_with_what_a_process_has_of_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    name = device_name()
    assert name.endswith(", 3 cores, 2 threads")
    assert not name.startswith(",")


def test_the_accelerator_comes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU X")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert device_name() == "GPU X × 8"
