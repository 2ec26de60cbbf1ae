"""Decoding against Pillow, for every kind of file that ImageNet has."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from acnet_pl.data import decoding
from acnet_pl.data.crops import random_resized_box, resized_crop
from acnet_pl.data.decoding import UnreadableImageError, decode, decode_all, jpeg_frame
from acnet_pl.data.random_words import uniform_stream

Draw = Callable[[int, int, int], npt.NDArray[np.uint8]]


def encoded(image: Image.Image, format: str, **options: Any) -> torch.Tensor:
    file = io.BytesIO()
    image.save(file, format, **options)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def by_pillow(content: torch.Tensor) -> torch.Tensor:
    image = Image.open(io.BytesIO(content.numpy().tobytes())).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one.int() - other.int()).abs().float()


def rotated(image: Image.Image) -> torch.Tensor:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90° to show"
    return encoded(image, "JPEG", quality=90, exif=exif)


KINDS: dict[str, Callable[[Image.Image], torch.Tensor]] = {
    "baseline 4:2:0": lambda image: encoded(image, "JPEG", quality=90),
    "4:4:4": lambda image: encoded(image, "JPEG", quality=90, subsampling=0),
    "progressive": lambda image: encoded(image, "JPEG", quality=90, progressive=True),
    "grey": lambda image: encoded(image.convert("L"), "JPEG", quality=90),
    "CMYK": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=90),
    "rotated by EXIF": rotated,
    "PNG": lambda image: encoded(image, "PNG"),
    "PNG with alpha": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "PNG with palette": lambda image: encoded(image.convert("P"), "PNG"),
    "BMP": lambda image: encoded(image, "BMP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_pillows(kind: str, natural_image: Draw) -> None:
    content = KINDS[kind](Image.fromarray(natural_image(0, 120, 90)))
    ours, pillows = decode(content), by_pillow(content)
    assert ours.dtype == torch.uint8
    assert ours.shape == pillows.shape == (3, 120, 90)
    # Two builds of libjpeg-turbo may round a colour conversion differently.
    assert difference(ours, pillows).max() <= 2
    assert difference(ours, pillows).mean() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_training_images_are_those_of_the_classic_recipe_to_a_tenth_of_a_grey_level(
    seed: int, natural_image: Draw
) -> None:
    height, width = ((375, 500), (500, 375), (300, 400))[seed % 3]
    content = encoded(Image.fromarray(natural_image(seed, height, width)), "JPEG", quality=92)
    top, left, h, w = box = random_resized_box(height, width, 0.08, uniform_stream(seed))
    image = Image.open(io.BytesIO(content.numpy().tobytes())).convert("RGB")
    classic = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.Resampling.BILINEAR)
    off = difference(resized_crop(decode(content), box, 224), torch.from_numpy(np.array(classic)).permute(2, 0, 1))
    assert off.mean() < 0.1  # of 255 grey levels; 1/f images have a standard deviation of dozens
    assert off.max() <= 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: torch.tensor([*b"\xff\xd8\xff not at all"], dtype=torch.uint8),
        lambda content: content[: len(content) // 2],
        lambda content: torch.zeros(1000, dtype=torch.uint8),
    ],
    ids=["empty", "a lying first marker", "truncated", "zeros"],
)
def test_what_cannot_be_decoded_is_an_error_and_its_neighbours_are_not(
    damage: Callable[[torch.Tensor], torch.Tensor], natural_image: Draw
) -> None:
    content = encoded(Image.fromarray(natural_image(0, 64, 64)), "JPEG")
    with pytest.raises(UnreadableImageError):
        decode(damage(content))
    first, second, third = decode_all([content, damage(content), content], torch.device("cpu"))
    assert isinstance(second, UnreadableImageError)
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(third))


def test_a_header_that_asks_for_gigabytes_is_refused(natural_image: Draw) -> None:
    jpeg = encoded(Image.fromarray(natural_image(0, 16, 16)), "JPEG").clone()
    frame = next(n for n in range(len(jpeg)) if jpeg[n : n + 2].tolist() == [0xFF, 0xC0])
    jpeg[frame + 5 : frame + 9] = 255  # height and width
    assert jpeg_frame(jpeg) == (65535, 65535, 3)
    png = encoded(Image.fromarray(natural_image(0, 16, 16)), "PNG").numpy().tobytes()
    sizes = b"IHDR" + struct.pack(">II", 13_000, 13_800) + png[24:29]
    bomb = png[:12] + sizes + struct.pack(">I", zlib.crc32(sizes)) + png[33:]
    for content in (jpeg, torch.frombuffer(bytearray(bomb), dtype=torch.uint8)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning, from half of the limit on
            with pytest.raises(
                UnreadableImageError, match=r"its header says \d+×\d+ pixels|exceeds limit of 178956970"
            ):
                decode(content)
    assert decode(encoded(Image.fromarray(natural_image(0, 16, 16)), "JPEG")).shape == (3, 16, 16)


def test_components_are_read_from_the_header(natural_image: Draw) -> None:
    image = Image.fromarray(natural_image(0, 40, 40))
    expected = {"grey": 1, "CMYK": 4, "PNG": 0, "BMP": 0, "PNG with alpha": 0, "PNG with palette": 0}
    assert {kind: jpeg_frame(make(image))[2] for kind, make in KINDS.items()} == {
        kind: expected.get(kind, 3) for kind in KINDS
    }
    content = KINDS["baseline 4:2:0"](image)
    assert {jpeg_frame(content[:length])[2] for length in range(170)} <= {0, 3}


@pytest.mark.gpu
def test_nvjpeg_decodes_what_it_knows_and_the_cpu_the_rest(natural_image: Draw) -> None:
    contents = [make(Image.fromarray(natural_image(0, 120, 90))) for make in KINDS.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # were nvJPEG to fail, the CPU would decode all of them, with a warning
        images = list(decode_all(contents, torch.device("cuda")))
    # A damaged one fails nvJPEG's whole call: the CPU decodes its neighbours.
    *by_cpu, damaged = decode_all([*contents, contents[0][:200]], torch.device("cuda"))
    assert isinstance(damaged, UnreadableImageError)
    for content, image, other in zip(contents, images, by_cpu, strict=True):
        assert isinstance(image, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert image.device.type == other.device.type == "cuda"
        assert torch.equal(other.cpu(), decode(content))
        # nvJPEG upsamples chroma by repetition.
        assert difference(image.cpu(), by_pillow(content)).mean() < 3


def test_a_failure_of_nvjpeg_is_told_and_running_out_of_memory_is_one(
    natural_image: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [encoded(Image.fromarray(natural_image(seed, 8, 9)), "JPEG") for seed in range(2)]

    def fail(error: RuntimeError) -> Any:
        def decode(*args: Any) -> Any:
            raise error

        return decode

    class OnTheCPU:  # stands for the GPU: what the CPU decodes goes where it is
        type = "cuda"

    device: Any = OnTheCPU()
    monkeypatch.setattr(torch.Tensor, "to", lambda image, device: image)
    monkeypatch.setattr(decoding, "_decode_by_nvjpeg", fail(RuntimeError("no hardware decoder")))
    with pytest.warns(UserWarning, match=r"nvJPEG failed .*no hardware decoder.*set decode=cpu"):
        images = list(decode_all(contents, device))
    for image, content in zip(images, contents, strict=True):
        assert isinstance(image, torch.Tensor)
        assert torch.equal(image, decode(content))
    # A damaged file is a reason to fail, which is not worth a word.
    assert isinstance(list(decode_all([*contents, contents[0][:60]], device))[2], UnreadableImageError)
    monkeypatch.setattr(decoding, "_decode_by_nvjpeg", fail(torch.OutOfMemoryError("no room")))
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        list(decode_all(contents, device))


@pytest.mark.parametrize("bits", ["16", "big-endian", "32", "float"])
def test_deep_grey_images_are_scaled_and_not_clipped(bits: str) -> None:
    ramp = np.tile(np.linspace(0, 65_535, 64), (64, 1))
    pixels = {
        "16": ramp.astype(np.uint16),
        "big-endian": ramp.astype(">u2"),
        "32": ramp.astype(np.int32),
        "float": (ramp / 65_535).astype(np.float32),
    }[bits]
    image = decode(encoded(Image.fromarray(pixels), "PNG" if bits == "16" else "TIFF"))
    assert difference(image, torch.from_numpy(np.floor(ramp) / 257).round().expand(3, 64, 64)).max() <= 1
    assert image.unique().numel() == 64


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 255.0), (0.0, float("nan"))])
def test_grey_values_of_unknown_range_are_refused(values: tuple[float, float]) -> None:
    pixels = np.tile(np.array(values, dtype=np.float32), (8, 4))
    with pytest.raises(UnreadableImageError, match=r"grey values are from .* expected 0 to 1; save it with 8 bits"):
        decode(encoded(Image.fromarray(pixels), "TIFF"))


def test_the_range_of_deep_grey_images_is_told() -> None:
    deep = np.full((8, 8), 4095, dtype=np.uint16)
    assert decoding.value_range(encoded(Image.fromarray(deep), "PNG")) == (4095, 4095)
    for kind, make in KINDS.items():
        assert decoding.value_range(make(Image.new("RGB", (8, 8)))) is None, kind
