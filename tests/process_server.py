"""A process that has imported everything once, and forks those that tests need.

Each line of the standard input is a JSON request ``{"call": "module:function", "arguments": {...}}``, answered by a
line with what the function returned. It runs in the server, forks the processes that it is to run, and waits for them.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import re
import runpy
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

DEFAULT_FILTERS = len(warnings.filters)  # those of the interpreter, the last ones

# What a run imports, in the end.
IMPORTED = ["acnet_pl.cli.lightning", "acnet_pl.callbacks", "acnet_pl.analysis", "sklearn.datasets", "torch._dynamo"]
IMPORTED += ["torch.distributed.launcher.api", "matplotlib.figure", "matplotlib.backends.backend_agg"]
IMPORTED += ["wandb.apis.public", "wandb.sdk.launch", "wandb.wandb_run", "wandb.sdk.lib.gitlib"]


def fork(work: Callable[[], int | None], folder: Path, output: Path, errors: Path | None = None) -> int:
    """Start a process that does some work in a folder and ends with the code that it returns; gives its id."""
    if child := os.fork():
        return child
    code: int | str | None = 99
    media = importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP
    media._finalizer.detach()  # wandb makes this folder when it is imported: the server's to remove
    media.__init__("wandb-media")
    try:
        for descriptor, path in ((1, output), (2, errors or output)):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, descriptor)
            os.close(file)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        code = work() or 0
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(code or 0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process on one machine."""
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
    told |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {name: str(value) for name, value in told.items()}


def be_rank(rank: int) -> None:
    """As where Lightning is imported now."""
    from pytorch_lightning.utilities import rank_zero_only

    vars(rank_zero_only)["rank"] = rank


def empty_pictures() -> Callable[..., None]:
    """A ``Figure.savefig`` that draws nothing into a file: what pictures show takes a quarter of a short run."""
    from matplotlib.figure import Figure

    draw = Figure.savefig

    def savefig(self: Figure, file: Any, **options: Any) -> None:
        if isinstance(file, Path):
            file.write_bytes(b"a picture")
        else:
            draw(self, file, **options)

    return savefig


def draw_nothing() -> None:
    """Have this process write pictures without content."""
    from matplotlib.figure import Figure

    setattr(Figure, "savefig", empty_pictures())  # noqa: B010


def python(args: Sequence[str], environment: dict[str, str]) -> None:
    """Be ``python ARGS``, with all that is imported already: ``-W``, then ``-m MODULE``, ``-c CODE`` or a file."""
    os.environ.clear()
    os.environ.update(environment)
    be_rank(int(os.environ.get("RANK", "0")))
    rest = list(args)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    options = []
    while rest[0] == "-W":
        options.append(rest[1].partition(":"))
        del rest[:2]
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    last = filters[len(filters) - DEFAULT_FILTERS :]
    del filters[len(filters) - DEFAULT_FILTERS :]  # what packages ask for goes before -W, and these after it
    for action, _, message in reversed(options):
        warnings.filterwarnings(action, re.escape(message), append=True)  # type: ignore[arg-type]
    filters += last
    kind = rest.pop(0)
    first = str(Path.cwd()) if kind in ("-m", "-c") else str(Path(kind).parent)
    sys.path[:0] = [first, *paths]
    importlib.invalidate_caches()
    for module in [module for name, module in sys.modules.items() if paths and name.startswith("acnet_pl.config.")]:
        for found in vars(module).values():
            if hasattr(found, "cache_clear"):
                found.cache_clear()  # packages on these paths may have entry points
    if kind == "-c":
        code = rest.pop(0)
        sys.argv = ["-c", *rest]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def run(
    args: Sequence[str], folder: str, environment: dict[str, str], output: str, processes: int, seconds: int
) -> Any:
    """Run a process, or several that form a group, to their end; gives their exit codes.

    The outputs are ``RANK.out`` and ``RANK.err`` in the folder ``output``.
    """
    port = free_port()

    def work(rank: int) -> None:
        signal.alarm(seconds)
        python(args, environment if processes == 1 else environment | torchrun(rank, processes, port))

    children = []
    for rank in range(processes):
        out, err = (Path(output, f"{rank}.{end}") for end in ("out", "err"))
        children.append(fork(lambda rank=rank: work(rank), Path(folder), out, err))  # type: ignore[misc]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def warm_up() -> None:
    """Import, and have what is kept in memory once it has been made: signatures of classes, fonts."""
    gc.disable()  # imports make no garbage
    for name in IMPORTED:
        importlib.import_module(name)
    from matplotlib.figure import Figure

    from acnet_pl.cli import main

    figure = Figure(layout="constrained")
    figure.subplots().set_title("title")
    figure.savefig(io.BytesIO())
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["fit", "--print_config"]) == 0
    gc.collect()
    gc.freeze()  # what lives now is not looked at in each process again, and need not be copied for that
    gc.enable()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.modules["tests.process_server"] = sys.modules["__main__"]
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        module, _, name = request["call"].partition(":")
        answer = getattr(importlib.import_module(module), name)(**request["arguments"])
        print(json.dumps(answer), flush=True)
