"""``python -m acnet_pl predict NETWORK PHOTOS...``: from photos to a CSV file."""

from __future__ import annotations

import csv
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import acnet_pl
from acnet_pl.backbones import CifarQuick
from acnet_pl.cli import main
from acnet_pl.cli.predictor import Predictor, load_predictor
from acnet_pl.data import DigitsDataModule
from acnet_pl.deploy import save_fused
from acnet_pl.modules.architecture import describe
from acnet_pl.nn import PlainConv

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve test digits as photos, ``photos/<digit>/<number>.png``."""
    folder = tmp_path_factory.mktemp("work") / "photos"
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    for number in range(12):
        path = folder / str(int(data.test_set.labels[number])) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.test_set.images[number].numpy()).save(path)
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected(finished, rows):
    """The probabilities that the fused network gives the files of the rows."""
    network, data = acnet_pl.load_fused(finished / "fused.safetensors"), DigitsDataModule(image_size=8)
    images = torch.from_numpy(np.stack([np.asarray(Image.open(row["file"])) for row in rows]))
    with torch.no_grad():
        return network(data.normalize(images)).softmax(1)


@pytest.mark.parametrize("network", ["checkpoints/last.ckpt", "fused.safetensors", "."])
def test_a_folder_of_photos_becomes_a_csv(network, finished, photos, tmp_path, capsys):
    output = tmp_path / "sub" / "p.csv"
    assert main(["predict", str(finished / network), str(photos), "--output", str(output), "--device", "cpu"]) == 0
    rows = rows_of(output)
    files = sorted(photos.rglob("*.png"))
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert [row["true"] for row in rows] == [path.parent.name for path in files]
    best = expected(finished, rows).topk(5)
    for row, values, labels in zip(rows, best.values.tolist(), best.indices.tolist(), strict=True):
        places = ["", "_2", "_3", "_4", "_5"]
        assert [float(row[f"probability{place}"]) for place in places] == pytest.approx(values, abs=2e-4)
        assert [row[f"label{place}"] for place in places] == [str(label) for label in labels]
    right = sum(row["label"] == row["true"] for row in rows)
    text = capsys.readouterr().out
    assert f"{right} of 12 photos in folders named after a class got that class" in text
    assert f"Wrote {output}: 12 photos, " in text


def test_folders_that_are_not_named_after_a_class_are_told(finished, photos, tmp_path, capsys):
    folder, output = tmp_path / "photos", tmp_path / "p.csv"
    shutil.copytree(photos, folder)
    predict = ["predict", str(finished), "--output", str(output)]
    blue, *others = sorted(folder.iterdir())
    for number in range(3):
        shutil.copy(next(blue.glob("*.png")), blue / f"more{number}.png")
    blue = blue.rename(folder / "blue")
    unknown = len(list(blue.iterdir()))
    for words in ([folder], sorted(folder.glob("*/*.png"))):
        assert main([*predict, *map(str, words)]) == 0
        text, name = capsys.readouterr().out, "blue" if words == [folder] else blue
        assert f" of {15 - unknown} photos in folders named after a class got that class" in text
        assert f"\n{unknown} photos in other folders: {name}\n" in text
        assert sum(row["true"] == "" for row in rows_of(output)) == unknown
    for other in others:
        other.rename(folder / f"no{other.name}")
    assert main([*predict, str(folder)]) == 0
    text = capsys.readouterr().out
    assert "No folder is named after a class (0, 1, 2, 3, 4 and 5 more), so the file has no column `true`\n" in text
    assert "in other folders" not in text
    assert "true" not in rows_of(output)[0]
    assert main([*predict, str(blue)]) == 0
    assert "folder" not in capsys.readouterr().out.replace(str(tmp_path), ""), "photos of one folder are just photos"


def test_large_photos_are_classified_a_few_at_a_time(finished, photos, tmp_path, monkeypatch):
    sizes, of = [], Predictor.probabilities
    monkeypatch.setattr(Predictor, "probabilities", lambda self, x: sizes.append(len(x)) or of(self, x))
    command = ["predict", str(finished), str(photos), "--output", str(tmp_path / "p.csv"), "--batch_size", str(2**64)]
    for pixels, expected in ((2**24, [12]), (5 * 8 * 8, [5, 5, 2]), (1, [1] * 12)):
        monkeypatch.setattr("acnet_pl.cli.commands.predict._MOST_PIXELS", pixels)
        assert main(command) == 0
        assert sizes == expected
        assert len(rows_of(tmp_path / "p.csv")) == 12
        sizes.clear()


@pytest.mark.parametrize("command", ["predict", "export"])
def test_large_photos_bring_no_warnings_of_pillow(command, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 15 * 20)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    given = [str(finished / "checkpoints/last.ckpt"), str(tmp_path / "a.png"), "--output", str(tmp_path / "p.csv")]
    if command == "export":
        given[1:] = ["--images", str(tmp_path), "--format", "safetensors", "--output", str(tmp_path / "m.safetensors")]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert main([command, *given]) == 0
    assert not [each for each in warned if "exceeds limit" in str(each.message)]


def test_an_onnx_file_predicts_the_same(finished, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    model = tmp_path / "model.onnx"
    export = ["export", str(finished / "checkpoints/last.ckpt"), "--output", str(model), "--batch_size", "5"]
    assert main(export) == 0
    for network, name in ((model, "onnx.csv"), (finished, "torch.csv")):
        assert main(["predict", str(network), str(photos), "--output", str(tmp_path / name)]) == 0
    one, other = rows_of(tmp_path / "onnx.csv"), rows_of(tmp_path / "torch.csv")
    assert [row["label"] for row in one] == [row["label"] for row in other]
    assert [float(row["probability"]) for row in one] == pytest.approx(
        [float(row["probability"]) for row in other], abs=2e-4
    )


def test_files_patterns_and_folders_name_each_photo_once(finished, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = sorted(map(str, photos.rglob("*.png")))
    assert main(["predict", str(finished), files[3], f"{photos}/*/*.png", str(photos)]) == 0
    assert [row["file"] for row in rows_of(tmp_path / "predictions.csv")] == [files[3], *files[:3], *files[4:]]
    loop = photos.parent / "all"
    loop.mkdir()
    (loop / "photos").symlink_to(photos)
    (loop / "again").symlink_to(loop)
    named = [f"{loop}/**/*.png", f"{photos}/../photos"]
    assert main(["predict", str(finished), *named, "--output", "loop.csv"]) == 0
    assert len(rows_of(tmp_path / "loop.csv")) == len(files), "a pattern follows links to folders round and round"


def test_text_that_is_a_formula_is_quoted(finished, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = next(photos.rglob("*.png"))
    names = ["=cmd.png", "+1.png", "-2.png", "@a.png", "a\nb.png", 'c"d,[red].png']
    for name in names:
        shutil.copy(source, tmp_path / name)
    assert main(["predict", str(finished), "--output", "p.csv", "--", *names]) == 0
    assert [row["file"] for row in rows_of(tmp_path / "p.csv")] == [f"'{name}" for name in names[:4]] + names[4:]
    assert "true" not in rows_of(tmp_path / "p.csv")[0]


@pytest.fixture
def damaged(photos, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(photos, folder)
    (folder / "0" / "broken.png").parent.mkdir(exist_ok=True)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (folder / "0" / "note.txt").write_text("no photo")
    return folder


def test_an_unreadable_photo_stops_or_is_left_out_and_named(finished, damaged, tmp_path, capsys):
    output = tmp_path / "p.csv"
    assert main(["predict", str(finished), str(damaged), "--output", str(output)]) == 1
    assert "broken.png cannot be decoded" in capsys.readouterr().err
    assert not output.exists()
    assert main(["predict", str(finished), str(damaged), "--skip-unreadable", "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert f"Left out {damaged}/0/broken.png: " in text
    assert "Ignored other files: 1 .txt" in text
    assert len(rows_of(output)) == 12


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "needs a trained network and photos: predict NETWORK PHOTOS..."),
        (["RUN"], 2, "no photos are named"),
        (["nowhere.ckpt", "PHOTOS"], 2, "nowhere.ckpt: there is no such checkpoint"),
        (["PHOTOS", "PHOTOS"], 2, "the first word is the network"),
        (["RUN", "nowhere/"], 2, "nowhere/: there is no such file or folder"),
        (["RUN", "PHOTOS", "--batch_size", "0"], 2, "`batch_size` (=0) must be at least 1"),
        (["RUN", "PHOTOS", "--outputs", "x"], 2, "did you mean --output?"),
        (["RUN", "PHOTOS", "--output", "PHOTOS"], 2, "is a folder; give the name of a file"),
        (["RUN", "PHOTOS", "--output", "PHOTOS/1.png"], 2, "writes .csv files, and this name ends in .png; give one"),
        (["RUN", "EMPTY"], 1, "holds no photo"),
        (["RUN/config.yaml", "PHOTOS"], 1, "config.yaml is not a checkpoint"),
    ],
)
def test_mistakes_are_explained(words, code, message, finished, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(finished), "PHOTOS": str(photos), "EMPTY": "empty"}
    given = [places.get(word, word).replace("RUN/", f"{finished}/") for word in words]
    assert main(["predict", *given]) == code
    assert message in capsys.readouterr().err


def test_nothing_that_is_read_is_written_over(finished, photos, tmp_path, capsys):
    photo = shutil.copy(next(photos.rglob("*.png")), tmp_path / "a.png")
    shutil.copy(photo, other := tmp_path / "b.csv")
    checkpoint = shutil.copy(finished / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    before = {path: path.read_bytes() for path in (photo, other, checkpoint)}
    for args in (
        ["predict", checkpoint, photo, "--output", photo],
        ["predict", checkpoint, tmp_path / "*.csv", "--output", tmp_path / ".." / tmp_path.name / "b.csv"],
        ["predict", checkpoint, photo, "--output", checkpoint],
        ["fuse", checkpoint, "--output", checkpoint],
        ["export", checkpoint, "--format", "safetensors", "--output", checkpoint],
    ):
        assert main([str(word) for word in args]) == 2
        assert "would take the place of the file that is read" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(finished, photos, device, capsys):
    assert main(["predict", str(finished), str(photos), "--device", device]) == 1
    assert f"--device {device}: this machine has auto, cpu" in capsys.readouterr().err


def test_numbers_that_are_none_and_names_that_a_terminal_would_obey(finished, photos, tmp_path, capsys):
    whole, path, output = finished / "fused.safetensors", tmp_path / "net.safetensors", tmp_path / "p.csv"
    info = {"format": "acnet_pl.fused/1", **acnet_pl.fused_info(whole)}
    huge = {name: value * 1e30 if name.endswith("weight") else value for name, value in load_file(whole).items()}
    save_file(huge, path, {"acnet_pl": json.dumps(info)})
    assert main(["predict", str(path), str(photos), "--device", "cpu", "--output", str(output)]) == 1
    assert f"{path} gives no finite logits for {photos}" in capsys.readouterr().err
    assert not output.exists()
    about = {**info["preprocessing"], "class_names": [f"\x1b[2J{number}" for number in range(10)]}
    save_file(load_file(whole), path, {"acnet_pl": json.dumps({**info, "preprocessing": about})})
    assert main(["predict", str(path), str(photos), "--device", "cpu", "--output", str(output)]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "b"]}, "`class_names` has 2 names, expected one for each of the network's 10 classes"),
        ({"image_shape": [1, 8, 8], "mean": [0.5], "std": [0.5]}, "is of a network for 1 channels of 8 x 8 pixels"),
        ({"image_shape": [3, 8, 9]}, "is of a network for 3 channels of 8 x 9 pixels"),
        ({"std": [0.3, 0.3]}, "`std` is [0.3, 0.3], expected"),
        ({"mean": None}, "`mean` is None, expected"),
    ],
)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_that_tells_nonsense_of_its_images(suffix, changes, message, finished, photos, tmp_path, capsys):
    path = tmp_path / f"net.{suffix}"
    whole = finished / "fused.safetensors"
    about = {**acnet_pl.fused_info(whole)["preprocessing"], **changes}
    if suffix == "ckpt":
        content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
        content["callbacks"]["Preprocessing"] = about
        torch.save(content, path)
    else:
        info = {"format": "acnet_pl.fused/1", **acnet_pl.fused_info(whole), "preprocessing": about}
        save_file(load_file(whole), path, {"acnet_pl": json.dumps(info)})
    output = tmp_path / "p.csv"
    assert main(["predict", str(path), str(photos), "--device", "cpu", "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert f"{path} " in error
    assert message in error
    assert not output.exists()


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_size_that_the_network_cannot_take(suffix, tmp_path):
    described = {"backbone": describe(CifarQuick), "conv": describe(PlainConv()), "num_classes": 10}
    about = {"image_shape": [3, 31, 31], "mean": [0.5] * 3, "std": [0.5] * 3}
    path, network = tmp_path / f"net.{suffix}", CifarQuick(PlainConv(), 10).eval()
    if suffix == "ckpt":
        state = {f"net.{name}": tensor for name, tensor in network.state_dict().items()}
        content = {"state_dict": state, "hyper_parameters": described, "callbacks": {"Preprocessing": about}}
        torch.save(content, path)
    else:
        save_fused(acnet_pl.fuse_model(network), path, {**described, "preprocessing": about})
    with pytest.raises(
        ValueError, match=r"net\.\w+ .*\[3, 31, 31\], and its network cannot take one \(CifarQuick takes 32"
    ):
        load_predictor(path, "cpu")


def test_without_names_the_classes_are_numbered(finished, photos, tmp_path):
    whole = finished / "fused.safetensors"
    info = acnet_pl.fused_info(whole)
    about = {name: info["preprocessing"][name] for name in ("image_shape", "mean", "std")}
    metadata = json.dumps({"format": "acnet_pl.fused/1", **info, "preprocessing": about})
    save_file(load_file(whole), tmp_path / "net.safetensors", {"acnet_pl": metadata})
    output = tmp_path / "p.csv"
    assert main(["predict", str(tmp_path / "net.safetensors"), str(photos), "--output", str(output)]) == 0
    rows = rows_of(output)
    assert {"label_5", "probability_5", "true"} <= rows[0].keys()
    best = expected(finished, rows).argmax(1)
    assert [row["label"] for row in rows] == [str(int(number)) for number in best]
