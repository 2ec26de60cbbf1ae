"""Every notebook runs from top to bottom in a kernel of its own, and is stored without output."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parents[1].joinpath("notebooks").glob("*.ipynb"))
FRESH = "quickstart"  # runs in an interpreter that has imported nothing: imports are the same in all of them


class ForkedKernelManager(AsyncKernelManager):
    """Has its kernel forked from a process that has imported everything, which takes seconds each time."""

    process: Callable[..., Any]
    thread: threading.Thread

    async def start_kernel(self, *, cwd: Path, env: dict[str, str], **_: object) -> None:  # type: ignore[override]
        self.write_connection_file()
        command = ["-m", "ipykernel_launcher", "-f", self.connection_file]
        self.thread = threading.Thread(target=lambda: self.process(command, cwd, **env), daemon=True)
        self.thread.start()

    @property
    def has_kernel(self) -> bool:
        return self.thread.is_alive() if hasattr(self, "thread") else False

    async def _async_is_alive(self) -> bool:
        return self.has_kernel

    is_alive = _async_is_alive

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
        self._connect_control_socket()
        self.session.send(self._control_socket, self.session.msg("shutdown_request", {"restart": restart}))
        self.thread.join()


def test_there_are_notebooks() -> None:
    assert FRESH in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), f"clear the output of: {cell.source[:60]}"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[..., Any]
) -> None:
    monkeypatch.setenv("ACNET_PL_SHORT", "1")  # as if read by hand, but with fewer epochs and images
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    manager = None
    if path.stem != FRESH:
        manager = ForkedKernelManager(kernel_name="python3", connection_file=str(tmp_path / "kernel.json"))
        manager.process = process
    NotebookClient(
        notebook, km=manager, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute(env=dict(os.environ), cwd=str(tmp_path), cleanup_kc=True)
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors
    loud = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    assert not loud, f"a reader would see these warnings: {loud}"
