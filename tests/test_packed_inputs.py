"""Packed networks that know their inputs: the record, pictures and arrays, and `bitbayes run` on both."""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import nn

import bitbayes as bb
from bitbayes.lab import cli
from bitbayes.lab.data import LazyImages, TensorData, batches, load_imagenet, load_tiny_imagenet
from bitbayes.lab.recipes import RECIPES
from bitbayes.packed import Inputs, PackedFileError, PackedNetwork, Program, Step, load
from bitbayes.packed.format.images import MAX_PIXELS
from bitbayes.packed.format.program import parse_program, program_text
from generated import encoded, write

ROOT = Path(__file__).resolve().parent.parent
FUZZ = runpy.run_path(str(ROOT / "benchmarks" / "fuzz_packed.py"), run_name="fuzz_packed")
GREY = {"colour": "grey", "height": 4, "width": 6}
RGB = {"colour": "rgb", "height": 4, "width": 6}
LINEAR = (Step("sign", (0,)),)


def of_images(shape: tuple[int, ...], outputs: int = 3, **fields) -> PackedNetwork:
    """A network of images that has seen no training."""
    torch.manual_seed(0)
    inputs = int(np.prod(shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs, bias=False))
    bb.STE([model[1].weight], seed=0).eval()
    return bb.pack(model, torch.zeros(1, *shape), inputs=Inputs("image", **fields))


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("text", {}, "kind must be 'image' or 'vector', got 'text'"),
        ("image", {}, "colour must be 'grey' or 'rgb', got None"),
        ("image", {**GREY, "height": 0}, "height must be a whole number of pixels from 1 to 16777216, got 0"),
        ("image", {**GREY, "width": 6.0}, "width must be a whole number"),
        ("image", {**GREY, "crop": 0}, r"crop must be a fraction in \(0, 1\], got 0.0"),
        ("image", {**GREY, "crop": [0.5, 0.5]}, "crop must be a fraction"),
        ("image", {**GREY, "mean": (0.1, 0.2)}, "mean has 2 numbers; for grey images give one$"),
        ("image", {**RGB, "std": (1.0, 1.0)}, "std has 2 numbers; for rgb images give one, or 3"),
        ("image", {**GREY, "std": 0}, "std from 1e-06 to 1e"),
        ("image", {**GREY, "std": -1.0}, "std from 1e-06 to 1e"),
        ("image", {**GREY, "std": 1e-30}, "std from 1e-06 to 1e"),
        ("image", {**GREY, "mean": float("nan")}, "mean must be a finite number or a list of them, got nan"),
        ("image", {**GREY, "mean": 10**400}, "mean must be a finite number"),
        ("image", {**GREY, "mean": True}, "mean must be a finite number or a list of them, got True"),
        ("image", {**GREY, "mean": ()}, "mean must be a number or a list of numbers"),
        ("image", {**GREY, "classes": "cat"}, "classes must be a list of names, got 'cat'"),
        ("image", {**GREY, "classes": ["cat", ""]}, "a class name must have 1 to 100 printable characters, got ''"),
        ("image", {**GREY, "classes": ["x" * 101]}, "1 to 100 printable characters"),
        ("image", {**GREY, "classes": ["\x1b[2J"]}, r"printable characters, got '\\x1b\[2J'"),
        ("image", {**GREY, "classes": ["\u202egnp"]}, "printable characters"),
        ("image", {**GREY, "classes": [7]}, "printable characters, got 7"),
        ("vector", {"width": 6}, "only images have colour, height, width and crop"),
        ("vector", {"mean": 1e31}, "mean must be within"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        Inputs(kind, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "inputs", "message"),
    [
        (
            (25,),
            Inputs("image", **GREY),
            r"grey images of 4 by 6 .* have shape \(1, 4, 6\) or \(4, 6\) or \(24,\), but .* \(25,\)",
        ),
        ((4, 6, 3), Inputs("image", **RGB), r"have shape \(3, 4, 6\) or \(72,\)"),
        ((2, 3), Inputs("vector"), r"vectors have one axis, but the network takes inputs of shape \(2, 3\)"),
        ((3,), Inputs("vector", mean=(0.0, 1.0)), "mean and std have 2 and 1 numbers, but the network takes 3"),
        ((3,), Inputs("vector", classes=("a", "b")), "2 classes have names, but the network has 3 outputs"),
        ((1,), Inputs("vector", classes=("a",)), "1 classes have names, but the network has 1 outputs"),
    ],
)
def test_a_record_of_another_network_is_refused(shape, inputs, message):
    with pytest.raises(PackedFileError, match=f"inputs: .*{message}"):
        PackedNetwork(Program(shape, 1, LINEAR, inputs=inputs), {})
    if not inputs.classes:  # and before anything is traced
        with pytest.raises(ValueError, match=message):
            bb.pack(nn.Flatten(), torch.zeros(1, *shape), inputs=inputs)


def test_one_output_stands_for_two_classes():
    assert PackedNetwork(Program((1,), 1, LINEAR, inputs=Inputs("vector", classes=("no", "yes"))), {}).inputs


RECORDS = [
    Inputs("image", **RGB, crop=0.875, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), classes=["crane", "crane", "Grüße"]),
    Inputs("image", **GREY),
    Inputs("vector", mean=torch.tensor([1.0, 2.0, 3.0]), std=np.array([4.0]), classes=("a", "b", "c")),
]


@pytest.mark.parametrize("inputs", RECORDS)
def test_the_file_has_the_record(tmp_path, inputs):
    shape = inputs.shape if inputs.kind == "image" else (3,)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3, bias=False))
    bb.STE([model[1].weight], seed=0).eval()
    network = bb.pack(model, torch.zeros(1, *shape), inputs=inputs)
    network.tempered(2.0).save(tmp_path / "net.safetensors")
    assert PackedNetwork.read(tmp_path / "net.safetensors").inputs == network.inputs == inputs
    assert "\n" not in str(inputs)


def test_hostile_records_are_refused_in_one_line():
    """Thousands of odd values in every place of the record: a sound program, or one line."""
    rng, found = random.Random(0), {True: 0, False: 0}
    odd = [*FUZZ["ODD"], *FUZZ["NAMES"], -0.0, 1e-300, 10**400, ["a"] * 50_000, ["x" * 5000], [0.5] * 1000]
    for inputs in RECORDS:
        shape = inputs.shape if inputs.kind == "image" else (3,)
        steps = (Step("reshape", (0,), "", {"shape": [int(np.prod(shape))]}),)
        plain = json.loads(program_text(Program(shape, 1, steps, inputs=replace(inputs, classes=()))))
        plain["inputs"]["classes"] = [str(index) for index in range(int(np.prod(shape)))]
        PackedNetwork(parse_program(json.dumps(plain)), {})
        for _ in range(700):
            whole = json.loads(json.dumps(plain))
            holder, key = rng.choice([(whole, "inputs"), *FUZZ["spots"](whole["inputs"])])
            if rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = rng.choice(odd)
            try:
                network = PackedNetwork(parse_program(json.dumps(whole)), {})
                x = network.prepare(np.zeros(shape, np.uint8)) if network.inputs else np.zeros((1, *shape))
                assert np.isfinite(load(network).outputs(x)).all()
                found[True] += 1
            except PackedFileError as error:
                assert "\n" not in str(error) and len(str(error)) < 300, error
                found[False] += 1
    assert min(found.values()) > 20, found


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6), (24,)])
def test_arrays_of_grey_images(shape):
    network, images = of_images(shape, **GREY, mean=0.3, std=0.7), pixels(5, 4, 6)
    data = TensorData(torch.from_numpy(images).flatten(1), torch.zeros(5), 0.3, 0.7)
    wanted = data.inputs(torch.arange(5)).numpy().reshape(5, *shape)
    for given in (
        images,
        images[:, None],
        images[..., None],
        images.reshape(5, 24),
        torch.from_numpy(images),
        list(images),
    ):
        assert np.array_equal(network.prepare(given), wanted)  # bit for bit what training computed
    assert network.prepare(images).dtype == np.float32
    assert np.array_equal(network.prepare(images[2]), wanted[2:3])
    assert np.array_equal(network.prepare(images[2].reshape(24)), wanted[2:3])
    np.testing.assert_allclose(network.prepare(images / 255), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 6), (72,)])
def test_arrays_of_colour_images(shape):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    network, images = of_images(shape, **RGB, mean=mean, std=std), pixels(5, 4, 6, 3)
    first = images.transpose(0, 3, 1, 2)
    data = TensorData(torch.from_numpy(first.copy()), torch.zeros(5), mean, std)
    wanted = data.inputs(torch.arange(5)).numpy().reshape(5, *shape)
    for given in (images, first, first.reshape(5, 72)):
        assert np.array_equal(network.prepare(given), wanted)
    assert np.array_equal(network.prepare(images[1]), network.prepare(first[1]))


def test_vectors_are_normalised():
    network = PackedNetwork(Program((2,), 1, LINEAR, inputs=Inputs("vector", mean=(1e9, 0.0), std=(2.0, 4.0))), {})
    wanted = [[0.5, 1.0]]
    assert network.prepare(np.array([1e9 + 1, 4])).tolist() == wanted  # float32 alone could not tell them apart
    assert network.prepare(torch.tensor([[1_000_000_001, 4]])).tolist() == wanted
    for wrong, message in [(np.zeros((2, 3)), r"shape \(2, 3\), expected \(N, 2\)"), (["a", "b"], "expected numbers")]:
        with pytest.raises(ValueError, match=message):
            network.prepare(wrong)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pixels(5, 4, 7), r"has shape \(5, 4, 7\), expected \(N, 1, 4, 6\), \(N, 4, 6, 1\), \(N, 4, 6\), \(N, 24\)"),
        (pixels(25), r"has shape \(25,\)"),
        (pixels(5, 4, 6).astype(np.int64), "has type int64, expected uint8"),
        (pixels(5, 4, 6).astype(np.float32), "numbers from 0 to 248, expected uint8, or .* from 0 to 1"),
        (pixels(5, 4, 6) / 255 - 0.3, "do not normalise them before"),
        (np.full((4, 6), np.nan), "numbers from nan to nan"),
        (np.zeros((4, 6), bool), "has type bool"),
        (np.float32(0), r"has shape \(\)"),
        (np.zeros((4, 6), object), "has type object"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message) as caught:
        of_images((24,), **GREY).prepare(array)
    assert "\n" not in str(caught.value)


def test_a_network_without_a_record_says_what_to_do(here):
    network = PackedNetwork(Program((24,), 1, LINEAR), {})
    with pytest.raises(ValueError, match=r"pack it again with bitbayes pack, or with bb.pack\(..., inputs="):
        network.prepare(pixels(4, 6))
    assert of_images((24,), **GREY).inputs is not None
    with pytest.raises(ValueError, match=r"got uint8; call network\.prepare"):
        load(of_images((24,), **GREY)).outputs(pixels(1, 24))


def saved(place: Path, picture: Image.Image, **options) -> Path:
    picture.save(place, **options)
    return place


def test_pictures_are_what_training_saw(tmp_path):
    """PNG files of the size of the data, as paths, as text and as images of Pillow."""
    images = pixels(3, 4, 6)
    network = of_images((24,), **GREY, mean=0.3, std=0.7)
    files = [saved(tmp_path / f"{i}.png", Image.fromarray(image)) for i, image in enumerate(images)]
    wanted = network.prepare(images)
    assert np.array_equal(network.prepare(files), wanted)
    assert np.array_equal(network.prepare([str(files[0]), Image.open(files[1])]), wanted[:2])
    assert np.array_equal(network.prepare(files[2]), wanted[2:])
    colours, rgb = pixels(4, 6, 3), of_images((3, 4, 6), **RGB)
    assert np.array_equal(rgb.prepare(Image.fromarray(colours)), rgb.prepare(colours))


def test_pictures_are_resized_and_converted(tmp_path):
    """Grey of colours, colours of grey, 16 bits, palettes, transparency, and the orientation of a photograph."""
    grey, rgb = of_images((24,), **GREY), of_images((72,), **RGB)

    def seen(network, picture, **options):
        path = saved(tmp_path / f"a.{'jpg' if 'exif' in options else 'png'}", picture, **options)
        return (network.prepare(path).reshape(-1, 4, 6) * 255).round().astype(np.uint8)

    colours, levels = Image.fromarray(pixels(4, 6, 3)), pixels(4, 6)
    assert np.array_equal(seen(grey, colours)[0], np.asarray(colours.convert("L")))
    assert np.array_equal(seen(rgb, Image.fromarray(levels)), np.stack([levels] * 3))
    assert np.array_equal(seen(grey, Image.fromarray(levels.astype(np.uint16) * 257))[0], levels)
    assert np.array_equal(seen(grey, Image.fromarray(levels > 99))[0], 255 * (levels > 99))
    palette = colours.quantize(16)
    assert np.array_equal(seen(rgb, palette), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    clear = np.dstack([pixels(4, 6, 3), np.zeros((4, 6), np.uint8)])
    assert (seen(grey, Image.fromarray(clear)) == 255).all()  # white, as most programs show it
    big = Image.fromarray(pixels(40, 60))
    small = big.resize((6, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(seen(grey, big)[0], np.asarray(small))
    assert np.asarray(small).std() < 20  # antialiased: a mean of a hundred pixels, not one of them
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    photo = Image.fromarray(np.repeat(np.repeat(pixels(3, 2, seed=1), 20, 0), 20, 1))
    turned = seen(grey, photo, exif=exif, quality=95)[0]
    wanted = np.asarray(photo.rotate(-90, expand=True).resize((6, 4), Image.Resampling.BILINEAR))
    assert np.abs(turned.astype(int) - wanted).max() < 20


def test_the_middle_of_a_picture_is_that_of_the_laboratory(tmp_path):
    """What `load_imagenet` gives for a test image, bit for bit."""
    path = saved(tmp_path / "a.png", Image.fromarray(pixels(300, 420, 3)))
    ((x, _),) = batches(LazyImages([(str(path), 0)], torch.tensor([0])), 1)
    for split, count in (("train", 2), ("val", 1)):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
        for index in range(count):
            saved(tmp_path / "images" / split / "cat" / f"{index}.png", Image.fromarray(pixels(30, 30, 3)))
    inputs = load_imagenet(tmp_path / "images", validation=0.0, workers=0).inputs
    assert inputs is not None and inputs.crop == 0.875
    network = PackedNetwork(Program((3, 224, 224), 1, LINEAR, inputs=inputs), {})
    assert np.array_equal(network.prepare(path), x.numpy())


def test_pictures_that_would_do_harm(tmp_path, monkeypatch):
    network = of_images((24,), **GREY)
    bomb = saved(tmp_path / "bomb.png", Image.new("1", (1, 1)))
    data = bytearray(bomb.read_bytes())
    data[16:24] = (1 << 20).to_bytes(4, "big") * 2  # a trillion pixels, said in the header
    bomb.write_bytes(data)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(saved(tmp_path / "a.jpg", Image.fromarray(pixels(40, 60))).read_bytes()[:-300])
    saved(tmp_path / "a.bmp", Image.fromarray(pixels(4, 6)))
    saved(tmp_path / "large.png", Image.new("1", (8200, 8200)))  # 8 kB of file: decoded, 67 MB
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for name, message in [
        ("bomb.png", "bomb.png cannot be read: .*(bomb|crc|CRC|broken|checksum|limit)|it is not a PNG"),
        ("text.png", "text.png cannot be read: it is not a PNG or JPEG image"),
        ("a.bmp", "a.bmp cannot be read: it is not a PNG or JPEG image"),
        ("cut.jpg", "cut.jpg cannot be read: .*truncated"),
        ("large.png", f"large.png has 8200 by 8200 pixels; at most {MAX_PIXELS} are decoded"),
        ("pipe.png", "pipe.png is not a regular file"),
        ("../..", "is not a regular file"),
        ("/dev/zero", "/dev/zero is not a regular file"),
        ("a\0b", "cannot be read: embedded null"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            network.prepare(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png"):
        network.prepare(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="the image has floating-point pixels"):
        network.prepare(Image.fromarray(np.zeros((4, 6), np.float32)))


def test_every_picture_and_array_gets_a_line(here, capsys):
    """A run of `digits`, packed; then ten images by their names alone, as pictures in a folder and as arrays."""
    assert cli.main(["train", "digits", "--out", "run", "--epochs", "10"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--samples", "4"]) == 0
    assert "inputs: grey images of 8 by 8 pixels, mean 0.3054" in capsys.readouterr().out
    network = PackedNetwork.read("net.safetensors")
    test = RECIPES["digits"].load(None, torch.device("cpu"), 0).test
    chosen = [int((test.y == digit).nonzero()[0]) for digit in range(10)]
    images = test.x[chosen].view(10, 8, 8).numpy()
    for digit, image in enumerate(images):
        (here / "imgs" / "more").mkdir(parents=True, exist_ok=True)
        place = "imgs/more" if digit == 9 else "imgs"
        saved(here / place / f"d{digit}.png", ImageOps.scale(Image.fromarray(image), 5, Image.Resampling.NEAREST))
    (here / "imgs" / ".d0.png").write_text("hidden")
    np.save("x.npy", images[:, None])
    np.save("flat.npy", images.reshape(10, 64)[0] / 255)
    assert cli.main(["run", "net.safetensors", "imgs", "x.npy", "flat.npy", "--out", "rows.jsonl"]) == 0
    out, told = capsys.readouterr()
    lines = out.splitlines()
    assert told == "written: rows.jsonl\n"
    names, classes, *figures = zip(*(line.split("\t") for line in lines), strict=True)
    assert names[:9] == tuple(f"imgs/d{digit}.png" for digit in range(9)) and names[9] == "imgs/more/d9.png"
    assert names[10:] == (*(f"x.npy[{index}]" for index in range(10)), "flat.npy")
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == list(names) and [row["label"] for row in rows] == list(classes)
    wanted = load(network).predict(test.inputs(torch.tensor(chosen)).numpy())
    assert [int(each) for each in classes[10:20]] == wanted.probs.argmax(1).tolist()
    got = np.array(figures, float).T
    parts = (wanted.probs.max(1), wanted.entropy, wanted.mutual_information)
    np.testing.assert_allclose(got[10:20], np.stack(parts, 1), atol=1e-4)
    assert sum(name == str(digit) for digit, name in enumerate(classes[:10])) >= 9
    assert classes[20] == classes[10]


def test_one_network_has_no_disagreement_and_names_have_spaces(here, capsys):
    of_images((24,), classes=("pine tree", "bus", "cat"), **GREY).save("net.safetensors")
    np.save("x.npy", pixels(4, 6))
    assert cli.main(["run", "net.safetensors", "x.npy"]) == 0
    name, label, probability, entropy = capsys.readouterr().out.rstrip("\n").split("\t")
    assert name == "x.npy" and label in ("pine tree", "bus", "cat")
    assert 1 / 3 < float(probability) <= 1 and 0 <= float(entropy) <= np.log(3)


def test_dark_on_light_is_inverted(here, capsys):
    of_images((24,), **GREY, mean=0.5).save("net.safetensors")
    images = pixels(2, 4, 6)
    np.save("x.npy", images)
    np.save("dark.npy", 255 - images)
    np.save("floats.npy", 1 - images / 255)
    assert cli.main(["run", "net.safetensors", "x.npy"]) == 0
    wanted = capsys.readouterr().out
    for name in ("dark", "floats"):
        assert cli.main(["run", "net.safetensors", f"{name}.npy", "--invert"]) == 0
        assert capsys.readouterr().out == wanted.replace("x.npy", f"{name}.npy")
    assert cli.main(["run", "net.safetensors", "--invert"]) == 2
    assert "--invert needs image files or arrays of images" in capsys.readouterr().err


def test_a_table_in_a_terminal(here, capsys, monkeypatch):
    of_images((24,), **GREY).save("net.safetensors")
    np.save("x\x1b[2J.npy", pixels(4, 6))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["run", "net.safetensors", "x\x1b[2J.npy"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "input" and "entropy (nats)" in head and row.startswith("x?[2J.npy")


def test_inputs_of_a_regression_and_of_points(here, capsys):
    for recipe, width in (("snelson", 1), ("moons", 2)):
        assert cli.main(["train", recipe, "--rule", "ste", "--out", recipe, "--epochs", "2"]) == 0
        assert cli.main(["pack", recipe, "-o", f"{recipe}.safetensors"]) == 0
        network = PackedNetwork.read(f"{recipe}.safetensors")
        raw = np.array([[1.5] * width, [0.25] * width])
        np.save("x.npy", raw)
        capsys.readouterr()
        assert cli.main(["run", f"{recipe}.safetensors", "x.npy"]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        prediction = load(network).predict(((raw - network.inputs.means) / network.inputs.stds).astype(np.float32))
        if recipe == "snelson":
            assert [float(line[1]) for line in lines] == pytest.approx(prediction.mean[:, 0].tolist(), abs=1e-4)
        else:
            names = [("outer moon", "inner moon")[int(p > 0.5)] for p in prediction.probs[:, 0]]
            assert [line[1] for line in lines] == names


def test_bad_inputs_are_one_line(here, capsys):
    """A pipe would block, a device would fill the memory, and so would an array that is larger than its file."""
    of_images((24,), **GREY).save("net.safetensors")
    PackedNetwork(Program((24,), 1, LINEAR), {}).save("old.safetensors")
    PackedNetwork(Program((24,), 1, LINEAR, inputs=Inputs("vector")), {}).save("vectors.safetensors")
    np.save("big.npy", pixels(3, 9, 9))
    np.save("none.npy", np.zeros((0, 24), np.uint8))
    np.save("normalised.npy", np.full((2, 24), -0.4))
    np.savez("many.npz", a=np.zeros(3))
    os.rename("many.npz", "many.npy")
    with open("claim.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 24)})
    saved(here / "a.png", Image.fromarray(pixels(4, 6)))
    (here / "empty").mkdir()
    os.mkfifo("pipe.npy")
    for words, code, message in [
        (["old.safetensors", "a.png"], 2, "old.safetensors does not describe its inputs; pack the run again with"),
        (["vectors.safetensors", "a.png"], 2, "a.png is not a .npy file, but the network takes vectors"),
        (["net.safetensors", "big.npy"], 2, "big.npy has shape (3, 9, 9), expected (N, 1, 4, 6)"),
        (["net.safetensors", "none.npy"], 2, "none.npy has no inputs"),
        (["net.safetensors", "normalised.npy"], 2, "do not normalise them before"),
        (["net.safetensors", "many.npy"], 2, "many.npy is not a readable .npy file, but an archive of arrays"),
        (["net.safetensors", "claim.npy"], 2, "claim.npy is not a readable .npy file"),
        (["net.safetensors", "empty"], 2, "empty has no images; expected files whose names end in .png, .jpg"),
        (["net.safetensors", "absent.png"], 1, "there is no file absent.png"),
        (["net.safetensors", "pipe.npy"], 2, "pipe.npy is not a regular file"),
        (["net.safetensors", "/dev/zero"], 2, "/dev/zero is not a regular file"),
        (["net.safetensors", "a.png", "--data", "x.npy"], 2, "got both inputs, which are normalised here"),
        (["net.safetensors", "--data", "a.png"], 2, "a.png is an image; leave out --data"),
        (["net.safetensors", "--data", "big.npy"], 2, "big.npy has shape"),
    ]:
        assert cli.main(["run", *words]) == code, words
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, (words, error)


def test_a_picture_that_cannot_be_read_does_not_end_the_others(here, capsys):
    of_images((24,), **GREY).save("net.safetensors")
    (here / "imgs").mkdir()
    for name in ("a", "c"):
        saved(here / "imgs" / f"{name}.png", Image.fromarray(pixels(4, 6)))
    (here / "imgs" / "b.jpg").write_bytes(b"none")
    assert cli.main(["run", "net.safetensors", "imgs/"]) == 2
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == ["imgs/a.png", "imgs/c.png"]
    assert (
        captured.err
        == "bitbayes: 1 of 3 inputs cannot be used: imgs/b.jpg cannot be read: it is not a PNG or JPEG image\n"
    )


def test_class_names_come_with_the_data_where_they_have_them(tmp_path):
    """The hub's table names its classes; a folder of images is named after them."""
    import datasets

    names = [f"n{index:08}" for index in range(200)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [encoded(pixels(64, 64, 3))] * 4, "label": [0, 1, 198, 199]}
    for split in ("train", "valid"):
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    assert load_tiny_imagenet(tmp_path).inputs.classes == tuple(names)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet"])
def test_data_sets_know_their_inputs(tmp_path, name):
    """The record has the normalisation of the data themselves, and as many names as there are classes."""
    recipe = next(each for each in RECIPES.values() if each.name in (name, f"{name}-resnet18", f"vispa-{name}"))
    bundle = recipe.load(str(write(tmp_path / name, name.split("-")[0])), torch.device("cpu"), 0)
    inputs = bundle.inputs
    assert inputs is not None and len(inputs.classes) in (0, bundle.classes)
    assert bool(inputs.classes) == (name not in ("imagenet", "tiny-imagenet"))  # whose names come with the data
    if isinstance(bundle.test, TensorData):
        assert (inputs.mean, inputs.std) == (bundle.test.mean, bundle.test.std)
        channels, height, width = inputs.shape
        assert bundle.test.x[0].numel() == channels * height * width
