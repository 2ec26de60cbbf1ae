"""LitData shards: written as LitData reads them, read without its deserialisers, and nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acnet_pl.data import DataError, ImageNetDataModule
from acnet_pl.data.class_folders import ClassFolders
from acnet_pl.data.shard_order import ShardPrefetcher
from acnet_pl.data.shard_store import ShardStore
from acnet_pl.data.shard_writer import write_shards
from acnet_pl.data.shards import ShardedImages, ShardSplit

pytest.importorskip("litdata")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, write_image_tree: Callable[..., Path]) -> ClassFolders:
    return ClassFolders(write_image_tree(tmp_path_factory.mktemp("folders") / "images", train=20, val=3))


def write(folders: ClassFolders, destination: Path, **options: Any) -> Path:
    splits: dict[str, Any] = {name: folders.split(name) for name in ("train", "val")}
    options = {"shard_mb": 0.01, "workers": 2, "check": True, **options}
    write_shards(splits, folders.class_names, destination, **options)
    return destination


@pytest.fixture(scope="module")
def shards(folders: ClassFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it."""
    return write(folders, tmp_path_factory.mktemp("shards") / "shards")


@pytest.fixture
def own_shards(folders: ClassFolders, tmp_path: Path) -> Path:
    return write(folders, tmp_path / "own")


def test_every_file_is_in_the_shards_byte_for_byte(folders: ClassFolders, shards: Path) -> None:
    images = ShardedImages(str(shards))
    assert images.are_there()
    assert images.class_names == folders.class_names
    for name in ("train", "val"):
        files, split = folders.split(name), images.split(name)
        expected = [(files.path(n).read_bytes(), int(files.labels[n])) for n in range(len(files))]
        got = [split.read(n) for n in range(len(split))]
        assert sorted((bytes(content.tolist()), label) for content, label in got) == sorted(expected)
    train = images.split("train")
    assert len(train.shards) > 4
    # In random order: a shard is not of one class.
    assert len({train.read(n)[1] for n in range(train.shards[0].items)}) > 1
    assert train.describe(train.shards[0].items) == f"image 0 of {shards}/train/{train.shards[1].name}"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by LitData
def test_litdata_reads_the_same(shards: Path) -> None:
    from litdata.streaming import Cache

    reader, split = Cache(str(shards / "train"), chunk_bytes=1), ShardedImages(str(shards)).split("train")
    assert len(reader) == len(split)
    for index in range(len(split)):
        content, label = split.read(index)
        assert reader[index] == (bytes(content.tolist()), label)


def test_the_same_data_set_gives_the_same_shards(folders: ClassFolders, shards: Path, tmp_path: Path) -> None:
    again = write(folders, tmp_path / "again", workers=1)
    files = [path.relative_to(shards) for path in shards.rglob("*.bin")]  # LitData writes the date into the index
    assert files
    assert all((again / file).read_bytes() == (shards / file).read_bytes() for file in files)


def test_a_destination_that_is_in_use_is_left_alone(folders: ClassFolders, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match="there already and not empty"):
        write(folders, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_nothing_is_left_where_an_image_cannot_be_read(tmp_path: Path, write_image_tree: Callable[..., Path]) -> None:
    root = write_image_tree(tmp_path / "images")
    (root / "val" / "n01" / "001.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"val/n01/001\.JPEG cannot be decoded"):
        write(ClassFolders(root), tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    write(ClassFolders(root), tmp_path / "shards", check=False)
    data = ImageNetDataModule(tmp_path / "shards", 32, 36, num_workers=0)
    data.setup()
    with pytest.raises(DataError, match=r"image \d of .*shards/val/chunk.* cannot be decoded"):
        list(data.val_dataloader())


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by LitData
@pytest.mark.parametrize("format", [["bytes", "pickle"], ["pickle", "int"], ["graph:pickle", "int"], ["pickle"]])
def test_shards_whose_reading_would_execute_code_are_refused(
    format: list[str], own_shards: Path, tmp_path: Path
) -> None:
    from litdata.streaming import Cache

    trace = tmp_path / "executed"
    folder = own_shards / "train"
    for file in folder.iterdir():
        file.unlink()
    writer = Cache(str(folder), chunk_bytes=10**6)
    for index in range(3):
        writer[index] = Touch(trace)
    writer.done()
    writer.merge()
    # LitData itself does execute it.
    Cache(str(folder), chunk_bytes=1)[0]
    assert trace.exists()
    trace.unlink()
    index = json.loads((folder / "index.json").read_text())
    assert index["config"]["data_format"] == ["pickle"]
    index["config"]["data_format"] = format
    (folder / "index.json").write_text(json.dumps(index))
    data = ImageNetDataModule(own_shards, 32, 36, num_workers=0, batch_size=2)
    with pytest.raises(DataError, match=r"must be \['bytes', 'int'\].*Nothing of them was read"):
        data.setup()
    assert not trace.exists()


def test_a_pickle_under_a_harmless_name_is_not_executed(own_shards: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    payload = pickle.dumps(Touch(trace))
    item = struct.pack("<II", len(payload), 8) + payload + struct.pack("<q", 0)
    head = struct.pack("<III", 1, 12, 12 + len(item))
    index_file = own_shards / "train" / "index.json"
    index = json.loads(index_file.read_text())
    index["chunks"] = [{"filename": "forged.bin", "chunk_size": 1, "chunk_bytes": len(head + item), "dim": None}]
    index_file.write_text(json.dumps(index))
    (own_shards / "train" / "forged.bin").write_bytes(head + item)
    data = ImageNetDataModule(own_shards, 32, 36, num_workers=0, batch_size=1)
    data.setup()
    with pytest.raises(DataError, match=r"forged\.bin cannot be decoded"):
        list(data.train_dataloader())
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("config"), "not the index of a LitData folder"),
        (lambda index: index["chunks"].clear(), "lists no shards"),
        (lambda index: index["chunks"][0].update(filename="../../escaped.bin"), "names a shard"),
        (lambda index: index["chunks"][0].update(chunk_size=0), "names a shard"),
        (lambda index: index["chunks"][0].update(chunk_size=2**62), r"chunk-0-0\.bin has \d+ samples, which \d+ bytes"),
        (lambda index: index["chunks"][0].update(chunk_size=float("inf")), "not the index of a LitData folder"),
        (lambda index: index["config"].update(compression="zstd"), "neither compressed nor encrypted"),
        (lambda index: index["config"].update(item_loader="TokensLoader"), "neither compressed nor encrypted"),
    ],
)
def test_an_index_that_is_not_of_images_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, own_shards: Path
) -> None:
    file = own_shards / "val" / "index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))
    with pytest.raises(DataError, match=message):
        ShardedImages(str(own_shards)).split("val")


@pytest.mark.parametrize("position", [0, 5, 13, -1])
def test_a_damaged_shard_is_named(position: int, own_shards: Path) -> None:
    split = ShardedImages(str(own_shards)).split("val")
    file = own_shards / "val" / split.shards[0].name
    content = bytearray(file.read_bytes())
    content[position] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(DataError, match=split.shards[0].name):
        list(map(split.read, range(split.shards[0].items)))
    file.write_bytes(content[:6])
    with pytest.raises(DataError, match=split.shards[0].name):
        ShardedImages(str(own_shards)).split("val").read(0)


def test_missing_files_are_named(own_shards: Path) -> None:
    split = ShardedImages(str(own_shards)).split("val")
    (own_shards / "val" / split.shards[0].name).unlink()
    with pytest.raises(DataError, match=r"chunk-0-0\.bin is missing"):
        split.read(0)
    (own_shards / "classes.json").write_text('{"not": "a list"}')
    with pytest.raises(DataError, match="must be a list of the names"):
        ImageNetDataModule(own_shards)
    (own_shards / "classes.json").write_text("[")
    with pytest.raises(DataError, match="is not JSON"):
        ImageNetDataModule(own_shards)


def test_an_epoch_from_shards_is_every_image_once_and_resumes_where_it_stood(shards: Path) -> None:
    def loader() -> Any:
        data = ImageNetDataModule(shards, 32, 36, num_workers=0, batch_size=5, seed=3)
        data.setup("fit")
        made = data.train_dataloader()
        made.sampler.set_epoch(2)  # type: ignore[attr-defined]
        return made

    first = loader()
    whole = list(first)
    indices = torch.cat([indices for _, _, indices in whole])
    assert sorted(indices.tolist()) == list(range(60))
    begun, rest = loader(), loader()
    for _, _ in zip(range(7), begun, strict=False):
        pass
    state = begun.state_dict()
    assert state == {"epoch": 2, "taken": 35}
    rest.load_state_dict(state)
    for (images, labels, _), (expected, expected_labels, _) in zip(rest, whole[7:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_remote_shards_are_fetched_ahead_and_removed_behind(shards: Path, tmp_path: Path) -> None:
    remote, cache = f"local:{shards}", tmp_path / "cache"
    split = ShardedImages(remote, cache, cache_gb=0).split("train")
    present = split.store.folder.glob
    per_shard = split.shards[0].items
    prefetcher = ShardPrefetcher(split, lambda: range(len(split)), ahead=2 * per_shard)

    def wait_until(condition: Callable[[set[str]], bool]) -> None:
        for _ in range(500):
            if condition({path.name for path in present("chunk-*.bin")}):
                return
            threading.Event().wait(0.02)
        raise AssertionError({path.name for path in present("chunk-*.bin")})

    names = [shard.name for shard in split.shards]
    prefetcher.begin(0)
    wait_until(lambda files: files == set(names[:2]))
    prefetcher.advance(3 * per_shard)
    # The last shard that was used up when the newest came into sight is gone, what is in use is there.
    wait_until(lambda files: names[0] not in files and set(names[3:5]) <= files)
    prefetcher.stop()
    content, label = split.read(0)  # removed ones are fetched again
    expected = ShardedImages(str(shards)).split("train").read(0)
    assert (bytes(content.tolist()), label) == (bytes(expected[0].tolist()), expected[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_remote_folder(workers: int, shards: Path, tmp_path: Path) -> None:
    batches = {}
    for root in (str(shards), f"local://{shards}"):
        options: dict[str, Any] = {"num_workers": workers, "batch_size": 6, "seed": 3, "cache_dir": str(tmp_path)}
        data = ImageNetDataModule(root, 32, 36, **options)
        assert data.class_names == ["n00", "n01", "n02"]
        data.setup("fit")
        batches[root] = list(data.train_dataloader()) + list(data.val_dataloader())
        data.teardown()
    for ours, theirs in zip(*batches.values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    store = ShardStore(f"local:{tmp_path}/nowhere", tmp_path / "cache")
    with pytest.raises(DataError, match=r"nowhere/classes\.json cannot be fetched"):
        store.fetch("classes.json")
    with pytest.raises(DataError, match="cannot be fetched"):
        ImageNetDataModule(f"local://{tmp_path}/nowhere", cache_dir=str(tmp_path / "cache"))


def test_shards_are_read_without_litdata(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "litdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert len(ShardedImages(str(shards)).split("train").read(7)[0]) > 100
    with pytest.raises(DataError, match=r"acnet-pl\[streaming\]"):
        ShardStore("s3://bucket/data", tmp_path).fetch("classes.json")


def test_the_shards_of_a_split_survive_pickling(shards: Path) -> None:
    split = ShardedImages(str(shards)).split("val")
    split.read(0)
    copy = pickle.loads(pickle.dumps(split))
    assert isinstance(copy, ShardSplit)
    assert torch.equal(copy.read(8)[0], split.read(8)[0])


def test_a_file_that_another_process_removes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ShardStore("local:elsewhere", tmp_path, cache_gb=1e-9)
    store.folder.mkdir()
    for name in ("a", "b", "c"):
        (store.folder / name).write_bytes(b"12")
    is_file = Path.is_file

    def and_then_gone(path: Path) -> bool:
        found = is_file(path)
        if path.name == "b":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", and_then_gone)
    store.discard(["b", "a"], ["c"])
    assert sorted(path.name for path in store.folder.iterdir()) == []


def test_the_longest_unused_shards_make_room(tmp_path: Path) -> None:
    store = ShardStore("local:elsewhere", tmp_path, cache_gb=4e-9)
    store.folder.mkdir()
    for age, name in enumerate(("coming", "used", "new", "old", "older", "index.json")):
        (store.folder / name).write_bytes(b"1")
        os.utime(store.folder / name, ns=(0, 10**9 * (100 - age)))
    store.fetch("older")  # which is a use
    store.discard(["used", "never there"], ["new", "old", "older"])
    assert {path.name for path in store.folder.iterdir()} == {"coming", "new", "older", "index.json"}


def test_shards_of_other_processes_do_not_stay_for_ever(shards: Path, tmp_path: Path) -> None:
    split = ShardedImages(f"local:{shards}", tmp_path, cache_gb=0).split("train")
    for shard in split.shards:
        split.store.fetch(shard.name)
    second = int(split.firsts[1])  # the first shard is what another machine reads in this epoch
    prefetcher = ShardPrefetcher(split, lambda: range(second, len(split)), ahead=1)
    prefetcher.begin(0)
    for _ in range(500):
        if not (split.store.folder / split.shards[0].name).exists():
            break
        threading.Event().wait(0.02)
    prefetcher.stop()
    assert {path.name for path in split.store.folder.glob("*.bin")} == {shard.name for shard in split.shards[1:]}


def test_a_shard_that_is_removed_before_it_is_opened_is_fetched_again(shards: Path, tmp_path: Path) -> None:
    split = ShardedImages(f"local:{shards}", tmp_path).split("train")
    fetch = split.store.fetch
    removed: list[str] = []

    def and_remove_once(name: str) -> Path:
        path = fetch(name)
        if not removed:
            removed.append(name)
            path.unlink()
        return path

    split.store.fetch = and_remove_once  # type: ignore[method-assign]
    assert len(split.read(0)[0]) > 100
    assert removed


def test_a_cache_that_cannot_be_written_to_is_named(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be cached in .*file.*set `cache_dir` to a folder"):
        ImageNetDataModule(f"local://{shards}", cache_dir=str(tmp_path / "file"))


def test_the_default_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user, raising=False)
        folders.add(ShardStore("local:elsewhere").folder)
    assert len({folder.parent for folder in folders}) == 2


def test_nobody_else_can_have_planted_the_default_cache(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    store = ShardStore(f"local:{shards}")
    folder = store.folder.parent
    store.fetch("classes.json")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)  # readable only: by an earlier version, say
    store.fetch("classes.json")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(DataError, match=r"may hold what another user put there.*drwxrwxrwx.*set `cache_dir`"):
        store.fetch("classes.json")  # although it is there already
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="may hold what another user put there"):
        store.fetch("classes.json")
    if os.getuid() == 0:
        folder.unlink()
        (tmp_path / "elsewhere").rename(folder)
        os.chown(folder, 1234, -1)
        with pytest.raises(DataError, match="of user 1234"):
            store.fetch("classes.json")


def test_a_remote_index_may_not_list_more_images_than_a_shard_can_hold(shards: Path, tmp_path: Path) -> None:
    import shutil

    forged = shutil.copytree(shards, tmp_path / "forged")
    index = json.loads((forged / "train" / "index.json").read_text())
    for items, message in ((2**28, r"which 4294967296 bytes cannot hold"), (2**27, "lists more than 2,147,483,648")):
        index["chunks"] = [{**index["chunks"][0], "filename": f"{n}.bin", "chunk_size": items} for n in range(17)]
        (forged / "train" / "index.json").write_text(json.dumps(index))
        with pytest.raises(DataError, match=message):
            ShardedImages(f"local:{forged}", tmp_path / str(items)).split("train")


def test_an_address_may_end_in_a_slash(shards: Path) -> None:
    assert ShardedImages(f"local:{shards}/").split("train").store.root == f"local:{shards}/train"
    assert ShardedImages("s3://bucket/set//").root == "s3://bucket/set"
