"""CIFARDataModule reads what torchvision reads, splits it, and says what is wrong with what it cannot read."""

import contextlib
import functools
import hashlib
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acnet_pl.data import CIFARDataModule, DataError, InMemoryImages
from acnet_pl.data.cifar_batches import CIFARBatches

WriteCIFAR = Callable[[Path, int, int], Path]
PublishMD5 = Callable[[Path, int], None]


def batch_file(root: Path, name: str = "data_batch_3") -> Path:
    return root / "cifar-10-batches-py" / name


@pytest.fixture
def own_root(cifar10_root: Path, tmp_path: Path) -> Path:
    """A copy of the small CIFAR-10 that a test may spoil."""
    return shutil.copytree(cifar10_root, tmp_path / "own")


def load(root: Path, **options: Any) -> CIFARDataModule:
    data = CIFARDataModule(root=root, **{"val_size": 20, "verify": False, "batch_size": 10, **options})
    data.prepare_data()
    data.setup()
    return data


def contents(*parts: InMemoryImages) -> list[tuple[int, bytes]]:
    return sorted(
        (int(label), image.numpy().tobytes())
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    )


@pytest.mark.parametrize("classes", [10, 100])
def test_reads_what_torchvision_reads(
    classes: int, cifar10_root: Path, cifar100_root: Path, publish_md5: PublishMD5
) -> None:
    root = cifar10_root if classes == 10 else cifar100_root
    publish_md5(root, classes)
    data = load(root, dataset=f"cifar{classes}", verify=True, val_size=0)
    release = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
    for part, train in ((data.train_set, True), (data.test_set, False)):
        reference = release(root, train=train)
        assert np.array_equal(part.images.numpy(), reference.data)
        assert part.labels.tolist() == reference.targets
        assert data.class_names == reference.classes
        assert data.num_classes == len(reference.classes)


def test_small_files_have_the_form_that_python_reads(cifar10_root: Path) -> None:
    batch = pickle.loads(batch_file(cifar10_root).read_bytes(), encoding="latin1")
    assert batch["data"].shape == (40, 3072)
    assert batch["data"].dtype == np.uint8


def test_validation_images_are_split_off_by_class(cifar10_root: Path) -> None:
    whole, data = load(cifar10_root, val_size=0), load(cifar10_root, val_size=50)
    assert contents(data.train_set, data.val_set) == contents(whole.train_set)
    assert data.val_set.labels.bincount().tolist() == [5] * 10
    assert data.train_set.labels.bincount().tolist() == [15] * 10
    assert contents(data.test_set) == contents(whole.test_set)


def test_split_depends_on_its_own_seed_only(cifar10_root: Path) -> None:
    first, same, other = (load(cifar10_root, **o) for o in ({"seed": 0}, {"seed": 1}, {"split_seed": 1}))
    assert torch.equal(first.val_set.images, same.val_set.images)
    assert not torch.equal(first.val_set.images, other.val_set.images)


def test_articles_protocol_validates_on_the_test_images_and_says_so(
    cifar10_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data = load(cifar10_root, val_size=0)
    assert len(data.train_set) == 200
    assert contents(data.val_set) == contents(data.test_set)
    assert "training on all 200 training images of cifar10; validation runs on the test images" in caplog.text


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_what_the_command_line_links_to_is_known_at_once(dataset: Any, classes: int) -> None:
    data = CIFARDataModule(dataset, root="/there/is/nothing/here")
    assert (data.num_classes, len(set(data.class_names)), data.image_shape) == (classes, classes, (3, 32, 32))
    assert data.class_names == sorted(data.class_names)
    assert len(data.mean) == len(data.std) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar11"}, r"`dataset` \(='cifar11'\) must be one of 'cifar10', 'cifar100'"),
        ({"layout": "zip"}, r"`layout` \(='zip'\) must be one of 'auto', 'python', 'folder'"),
        ({"val_size": -1}, r"`val_size` \(=-1\) must be at least 0"),
        ({"layout": "folder", "download": True}, "`download` fetches the official batches"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIFARDataModule(root=".", **options)


def test_validation_of_everything_is_refused(cifar10_root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`val_size` \(=200\) must be less than the number of training images \(=200\)"
    ):
        load(cifar10_root, val_size=200)


def test_missing_folder_names_both_ways_out(tmp_path: Path) -> None:
    data = CIFARDataModule(root=tmp_path / "nowhere")
    for step in (data.prepare_data, data.setup):
        with pytest.raises(DataError) as caught:
            step()
        for part in (
            str(tmp_path / "nowhere" / "cifar-10-batches-py"),
            "download: true",
            "train/<class>",
            "data_batch_5",
        ):
            assert part in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_missing_file_is_named(own_root: Path) -> None:
    batch_file(own_root).unlink()
    with pytest.raises(DataError, match=r"does not hold data_batch_3, which"):
        load(own_root)


def test_file_that_is_not_the_published_one_is_not_even_unpickled(
    cifar10_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acnet_pl.data.cifar_batches.load_pickle", lambda content: pytest.fail("was unpickled"))
    content = batch_file(cifar10_root, "batches.meta").read_bytes()
    with pytest.raises(DataError) as caught:
        load(cifar10_root, verify=True)
    got, published = hashlib.md5(content).hexdigest(), "5ff9c542aee3614f3951f8cda6e48888"
    for part in ("batches.meta: MD5", got, published, "verify: false", "download: true"):
        assert part in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "one byte"])
def test_damage_is_found_by_the_checksum(damage: str, own_root: Path, publish_md5: PublishMD5) -> None:
    publish_md5(own_root, 10)
    load(own_root, verify=True)
    path = batch_file(own_root)
    content = bytearray(path.read_bytes())
    content[5000] ^= damage == "one byte"
    path.write_bytes(content[:-100] if damage == "truncated" else content)
    with pytest.raises(DataError, match=r"data_batch_3: MD5 sum .* truncated, altered or not of the official release"):
        load(own_root, verify=True)


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("verify", [True, False])
def test_malice_is_not_executed(
    name: str, verify: bool, own_root: Path, tmp_path: Path, publish_md5: PublishMD5
) -> None:
    path, mark = batch_file(own_root, name), tmp_path / "executed"
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**content, "more": Malice(mark)}))
    publish_md5(own_root, 10)
    with pytest.raises(DataError, match=rf"{name} was refused: it asks for `pathlib.*Nothing in it was executed"):
        load(own_root, verify=verify)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((40, 3071), np.uint8)}, r"uint8 array of shape \(N, 3072\), got shape \(40, 3071\)"),
        ({"data": np.zeros((40, 3, 32, 32), np.uint8)}, r"got shape \(40, 3, 32, 32\)"),
        ({"data": [0] * 40}, "got list"),
        ({"data": np.zeros((40, 3072), np.float32)}, "was refused: .*dtype 'f4'; images are uint8"),
        ({"labels": [0] * 39}, "`labels` must be a list of 40 labels, got 39 labels"),
        ({"labels": "0" * 40}, "must be a list of 40 labels, got str"),
        ({"labels": [0] * 39 + [10]}, "label 39 is 10; the labels of cifar10 are integers from 0 to 9"),
        ({"labels": [-1] + [0] * 39}, "label 0 is -1"),
        ({"labels": [0.0] * 40}, "label 0 is a float"),
        ({"labels": [True] * 40}, "label 0 is a bool"),
        ({"labels": [10**5000] * 40}, "label 0 is a int"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_wrong_contents_are_named(change: dict[str, object], message: str, own_root: Path) -> None:
    path = batch_file(own_root)
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes(), encoding="latin1"), **change}))
    with pytest.raises(DataError, match=message) as caught:
        load(own_root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "was refused: it is malformed"),
        (b"<html>404</html>", "was refused"),
        (pickle.dumps([1]), "holds a list instead of a dict"),
        (pickle.dumps({"fine_labels": []}), "has no entry `data`; is it a file of cifar10"),
    ],
)
def test_wrong_file_is_named(content: bytes, message: str, own_root: Path) -> None:
    batch_file(own_root).write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_3 {message}"):
        load(own_root)


def test_class_without_an_image_is_named(own_root: Path) -> None:
    path = batch_file(own_root, "test_batch")
    batch = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**batch, "labels": [3 if x == 6 else x for x in batch["labels"]]}))
    with pytest.raises(DataError, match=r"no test image is of class 6 \('frog'\)"):
        load(own_root)


def test_other_class_names_are_refused(own_root: Path) -> None:
    batch_file(own_root, "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with pytest.raises(DataError, match=r"`label_names` are not the class names of cifar10"):
        load(own_root)


def test_file_that_cannot_be_opened_is_named(own_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"batches.meta cannot be read \(Permission denied\)"):
        load(own_root)


@settings(
    deadline=None, derandomize=True, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_files_are_read_or_refused(own_root: Path, cifar10_root: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["data_batch_1", "test_batch", "batches.meta"]))
    original = batch_file(cifar10_root, name).read_bytes()
    content = bytearray(original)
    # The pixels are most of the file; what surrounds them is where a mutation matters.
    places = st.one_of(st.integers(0, 250), st.integers(len(original) - 800, len(original) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(places) % len(content)] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    batch_file(own_root, name).write_bytes(content)
    batches = CIFARBatches("cifar10", own_root, CIFARDataModule().class_names, verify=False)
    try:
        with contextlib.suppress(DataError):
            batches.read("test" if name == "test_batch" else "train")
    finally:
        batch_file(own_root, name).write_bytes(original)


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFARBatches, "download", lambda self: pytest.fail("went to the network"))
    with pytest.raises(DataError, match="download: true"):
        CIFARDataModule(root=tmp_path).prepare_data()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served over HTTP, and the release's address pointed at it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address)
        yield folder
        server.shutdown()
        thread.join()


def test_download_unpacks_the_release_and_is_done_once(
    mirror: Path, tmp_path: Path, write_cifar: WriteCIFAR, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "release", 10, 40)
    archive = Path(shutil.make_archive(str(mirror / "cifar-10-python"), "gztar", tmp_path / "release"))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load(tmp_path / "root", download=True).train_set) == 180
    archive.unlink()
    assert len(load(tmp_path / "root", download=True).train_set) == 180


@pytest.mark.parametrize("fault", ["not found", "another file"])
def test_failed_download_says_what_to_do(fault: str, mirror: Path, tmp_path: Path) -> None:
    if fault == "another file":
        (mirror / "cifar-10-python.tar.gz").write_bytes(b"Log in to this hotel's network")
    with pytest.raises(DataError, match=r"could not be downloaded .*fetch it on a machine that can"):
        CIFARDataModule(root=tmp_path / "root", download=True).prepare_data()
