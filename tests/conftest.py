"""Data sets for tests: a few learnable images in CIFAR's official format and as folders."""

import gc
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from PIL import Image

from acnet_pl.data import CIFARDataModule

sys.path.insert(0, str(Path(__file__).parent))
import fast  # type: ignore[import-not-found]

# One thread for each process, the tests' own and those that they start: sums are then made in one order everywhere,
# and two workers do not get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

Bytes = npt.NDArray[np.uint8]
NAMES = {data.num_classes: data.class_names for data in (CIFARDataModule("cifar10"), CIFARDataModule("cifar100"))}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="what the global random generators start from in each test")

    parser.addoption("--fast", action="store_true", help="what costs little, of each module; see tests/fast.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``gpu`` where there is no CUDA device; ``pytest -m gpu`` runs these alone."""
    if config.getoption("--fast"):
        chosen, left_out = fast.choose(items)
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """What is imported stays: each of the collector's full passes over it would take half a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """With ``--fast`` a test that costs too much fails."""
    if not item.config.getoption("--fast"):
        return (yield)
    with fast.at_little_cost(item.nodeid):
        return (yield)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """A test draws the same numbers whenever, and after whatever, it is run."""
    seed = request.config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (what is tested may draw from it)
    torch.manual_seed(seed)


def draw_images(rng: np.random.Generator, n: int, classes: int) -> tuple[Bytes, list[int]]:
    """Images ``(n, 32, 32, 3)`` with a colour for each class under noise, and labels in which each class occurs."""
    labels = rng.permutation(np.arange(n) % classes)
    colours = np.random.default_rng(classes).integers(40, 216, (classes, 1, 1, 3))
    noise = rng.integers(-40, 40, (n, 32, 32, 3))
    return (colours[labels] + noise).astype(np.uint8), [int(label) for label in labels]


class Python2Pickle:
    """Writes what Python 2 and NumPy of 2009 wrote with protocol 2, opcode by opcode: the form of the release."""

    def dumps(self, value: object) -> bytes:
        return b"\x80\x02" + self.encode(value) + b"."

    def encode(self, value: object) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(self.encode(key) + self.encode(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.encode, value)) + b"e"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, str):
            return self.string(value.encode("ascii"))
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.uint8
        shape = b"(" + b"".join(map(self.encode, value.shape)) + b"t"
        dtype = b"cnumpy\ndtype\n" + self.string(b"u1") + b"K\x00K\x01\x87R(K\x03" + self.string(b"|") + b"NNN"
        dtype += self.encode(-1) + self.encode(-1) + b"K\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + self.string(b"b") + b"\x87R"
        return empty + b"(K\x01" + shape + dtype + b"\x89" + self.string(value.tobytes()) + b"tb"

    def string(self, content: bytes) -> bytes:
        if len(content) < 256:
            return b"U" + bytes([len(content)]) + content
        return b"T" + struct.pack("<i", len(content)) + content


def write_official_cifar(root: Path, classes: int, per_batch: int) -> Path:
    """Write CIFAR-10 or CIFAR-100 with ``per_batch`` images in each batch, as the release's archive unpacks."""
    rng = np.random.default_rng(0)
    pickled = Python2Pickle().dumps
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    tenfold = classes == 10
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if tenfold else ["train", "test"]:
        images, labels = draw_images(rng, per_batch, classes)
        batch: dict[str, object] = {
            "batch_label": name,
            "data": images.transpose(0, 3, 1, 2).reshape(per_batch, 3072),
            "filenames": [f"{i}.png" for i in range(per_batch)],
        }
        batch |= {"labels": labels} if tenfold else {"fine_labels": labels, "coarse_labels": [x // 5 for x in labels]}
        (folder / name).write_bytes(pickled(batch))
    names: dict[str, object] = {"label_names" if tenfold else "fine_label_names": NAMES[classes]}
    (folder / ("batches.meta" if tenfold else "meta")).write_bytes(pickled(names))
    return root


@pytest.fixture(scope="session")
def write_cifar() -> Callable[[Path, int, int], Path]:
    """``write_cifar(root, classes, per_batch)`` writes small official batches below a folder and returns the folder."""
    return write_official_cifar


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 × 40 training and 40 test images of CIFAR-10's classes, in the official python layout. Do not write into it."""
    return write_official_cifar(tmp_path_factory.mktemp("cifar10"), 10, 40)


@pytest.fixture(scope="session")
def cifar100_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 training and 200 test images of CIFAR-100's classes, in the official layout. Do not write into it."""
    return write_official_cifar(tmp_path_factory.mktemp("cifar100"), 100, 200)


def write_image_folders(root: Path) -> Path:
    """Write 60 training and 20 test images of CIFAR-10's classes as class folders, PNG and JPEG."""
    rng = np.random.default_rng(1)
    for split, n in (("train", 60), ("test", 20)):
        images, labels = draw_images(rng, n, 10)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / NAMES[10][label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.{('png', 'jpg', 'JPEG')[i % 3]}")
    return root


@pytest.fixture
def cifar10_folders(tmp_path: Path) -> Path:
    """60 training and 20 test images of CIFAR-10's classes as ``{train,test}/<class>/*``, new for each test."""
    return write_image_folders(tmp_path / "cifar10-folders")


@pytest.fixture
def publish_md5(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """``publish_md5(root, classes)`` has torchvision's tables hold the MD5 sums of the files below ``root``."""

    def publish(root: Path, classes: int) -> None:
        release = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100

        def entry(name: str) -> list[str]:
            return [name, hashlib.md5((root / release.base_folder / name).read_bytes()).hexdigest()]

        for table in ("train_list", "test_list"):
            monkeypatch.setattr(release, table, [entry(name) for name, _ in getattr(release, table)])
        monkeypatch.setattr(release, "meta", {**release.meta, "md5": entry(release.meta["filename"])[1]})

    return publish


class Server:
    """A process from which others are forked; see process_server.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("process_server.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, function: str, **arguments: Any) -> Any:
        """Have it call ``module:function``; gives what that returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": function, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """What has imported everything, for processes that need not do it again."""
    server = Server()
    yield server
    server.process.communicate()


@pytest.fixture(scope="session")
def processes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``processes(args, cwd, count=2)`` runs ``python ARGS`` in processes that form a group, as torchrun starts them.

    They are forked from one that has imported everything: for a process of its own that need not be a fresh one.
    ``environment`` comes on top of this process's, ``seconds`` are the most that they may take. Gives what
    ``subprocess.run`` does, for each process.
    """

    def run(
        args: Sequence[object], cwd: Path, count: int = 2, seconds: int = 300, **environment: str
    ) -> list[subprocess.CompletedProcess[str]]:
        output = tmp_path_factory.mktemp("output")
        words, variables = list(map(str, args)), {**os.environ, **environment}
        codes = server.call(
            "tests.process_server:run", args=words, folder=str(cwd), environment=variables, output=str(output),
            processes=count, seconds=seconds,
        )  # fmt: skip
        texts = [[(output / f"{rank}.{end}").read_text() for end in ("out", "err")] for rank in range(count)]
        return [subprocess.CompletedProcess(words, code, *text) for code, text in zip(codes, texts, strict=True)]

    return run


@pytest.fixture(scope="session")
def process(processes: Callable[..., list[Any]]) -> Callable[..., Any]:
    """``process(args, cwd)`` runs ``python ARGS`` in one process; see `processes`."""

    def run(*args: Any, **options: Any) -> Any:
        (done,) = processes(*args, count=1, **options)
        return done

    return run
