"""The browser demo in a real Chromium: its answers, its doubts, and that they are those of the reference backend."""

from __future__ import annotations

import base64
import json
import re
import runpy
import shutil
import statistics
import sys
import tempfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.lab.data import TensorData, load_mnist
from bitbayes.packed import PackedNetwork, Program, Step
from bitbayes.packed.format.program import program_text
from generated import write

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "docs" / "demo"
MNIST = ROOT.parent / "shared" / "data" / "mnist"
INPUTS = bb.packed.Inputs("image", colour="grey", height=28, width=28, classes=tuple("0123456789"))
SHIPPED = bb.packed.load(DEMO / "digits.safetensors").network

# Ten digits, three letters and three scribbles as somebody could draw them: places in hundredths of the canvas.
DIGITS = {
    0: [[(50, 18), (36, 24), (28, 42), (29, 62), (40, 78), (54, 80), (66, 70), (71, 50), (66, 30), (56, 20), (48, 19)]],
    1: [[(52, 15), (51, 38), (49, 60), (48, 85)]],
    2: [[(30, 34), (36, 22), (50, 17), (64, 24), (66, 38), (56, 54), (42, 68), (29, 82), (50, 81), (72, 80)]],
    3: [[(32, 24), (48, 17), (63, 24), (62, 38), (46, 47), (62, 54), (67, 68), (56, 81), (40, 82), (29, 74)]],
    4: [[(34, 18), (30, 38), (28, 54), (48, 54), (70, 52)], [(64, 20), (62, 50), (60, 84)]],
    5: [[(66, 19), (38, 20), (35, 44), (52, 42), (66, 52), (68, 66), (56, 80), (40, 82), (28, 75)]],
    6: [[(60, 16), (44, 30), (34, 50), (33, 68), (44, 81), (58, 80), (66, 68), (60, 56), (46, 56), (35, 66)]],
    7: [[(28, 22), (50, 21), (71, 20), (60, 44), (50, 64), (44, 84)]],
    8: [
        [
            (64, 26),
            (50, 17),
            (37, 26),
            (42, 40),
            (56, 50),
            (65, 66),
            (54, 81),
            (38, 75),
            (38, 60),
            (54, 46),
            (65, 34),
            (63, 25),
        ]
    ],
    9: [[(65, 30), (52, 19), (38, 26), (36, 42), (48, 50), (62, 42), (66, 30), (65, 50), (62, 68), (58, 85)]],
}
UNLIKE = {
    "K": [[(30, 18), (30, 82)], [(68, 18), (31, 52)], [(40, 45), (70, 82)]],
    "A": [[(22, 80), (48, 18), (74, 80)], [(33, 57), (64, 57)]],
    "W": [[(16, 22), (34, 78), (50, 36), (66, 78), (84, 22)]],
    "E": [[(68, 18), (32, 18), (32, 82), (68, 82)], [(32, 50), (62, 50)]],
    "hatching": [[(20 + 5 * i, 22 if i % 2 else 78) for i in range(13)]],
    "walk": [[(int(50 + 35 * np.sin(2.1 * i * i)), int(50 + 35 * np.cos(1.7 * i * i + i))) for i in range(14)]],
    "star": [[(50, 10), (72, 80), (14, 36), (86, 36), (28, 80), (50, 10)], [(20, 20), (80, 80)]],
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the demo, with networks beside the one that it ships."""
    folder = tmp_path_factory.mktemp("demo")
    for file in DEMO.iterdir():
        if file.suffix in (".html", ".js", ".css", ".safetensors"):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def site(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    sync_api, path = needs.PLAYWRIGHT.module("playwright.sync_api"), needs.browser()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser, site):
    """The demo with the network that it ships; it must ask nobody else for anything, and complain about nothing."""
    page = browser.new_page(viewport={"width": 900, "height": 800})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(site)
    page.wait_for_selector('#answer[data-state="empty"]')
    yield page
    assert {url.rpartition("/")[0] + "/" for url in asked} == {site}
    assert len(asked) >= 7
    assert complaints == []
    page.close()


@pytest.fixture(scope="module")
def scans():
    """The first 1,000 test digits of MNIST and their classes."""
    if not MNIST.is_dir():
        needs.DATA.skip()
    test = load_mnist(MNIST).test
    return test.x[:1000], test.y[:1000].numpy()


def drawn(page, strokes):
    """What the page says to strokes in hundredths of the canvas, drawn with the mouse."""
    page.click("#clear")
    assert state(page) == ("empty", "Your turn")
    box = page.locator("#pad").bounding_box()

    def at(x, y):
        return box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"]

    for stroke in strokes:
        page.mouse.move(*at(*stroke[0]))
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*at(*point))
        page.mouse.up()
    return state(page)


def state(page):
    answer = page.locator("#answer")
    return answer.get_attribute("data-state"), answer.inner_text()


def test_strokes_of_digits(page, capsys):
    found = {digit: drawn(page, strokes) for digit, strokes in DIGITS.items()}
    right = [digit for digit, (kind, text) in found.items() if kind == "digit" and text == str(digit)]
    assert len(right) >= 9, found
    times = page.evaluate("performance.getEntriesByName('answer').map((entry) => entry.duration)")
    with capsys.disabled():
        print(f"\n{len(times)} answers of the demo, median {statistics.median(times):.1f} ms")


@pytest.mark.parametrize("name", UNLIKE)
def test_letters_and_scribbles_are_doubted(page, name):
    assert drawn(page, UNLIKE[name]) == ("doubt", "I don’t know")


def skeleton(image):
    """The middle lines of an image (28, 28), one pixel thick (Zhang & Suen, 1984)."""
    ink = np.pad(image > 100, 1).astype(int)
    while True:
        before = ink.sum()
        for first in (True, False):
            around = [
                np.roll(ink, move, (0, 1))
                for move in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
            ]
            n, e, s, w = around[::2]
            steps = sum((around[i] == 0) & (around[(i + 1) % 8] == 1) for i in range(8))
            sides = (n * e * s == 0) & (e * s * w == 0) if first else (n * e * w == 0) & (n * s * w == 0)
            ink = ink * ~((sum(around) >= 2) & (sum(around) <= 6) & (steps == 1) & sides)
        if ink.sum() == before:
            return {(int(x), int(y)) for y, x in np.argwhere(ink[1:-1, 1:-1])}


def traced(image):
    """A scan as strokes in hundredths of the canvas: walks along its skeleton, from ends first."""
    left, strokes = skeleton(image), []

    def near(place):
        return sorted(
            (abs(x - place[0]) + abs(y - place[1]), (x, y))
            for x, y in left
            if (x, y) != place and max(abs(x - place[0]), abs(y - place[1])) == 1
        )

    whole = set(left)
    while left:
        place = min(left, key=lambda each: (len(near(each)), each))
        touching = [p for p in whole - left if max(abs(p[0] - place[0]), abs(p[1] - place[1])) == 1]
        walk = [*touching[:1], place]
        left.discard(place)
        while found := near(place):
            place = found[0][1]
            left.discard(place)
            walk.append(place)
        if closing := [p for p in whole - set(walk[-3:]) if max(abs(p[0] - place[0]), abs(p[1] - place[1])) == 1]:
            walk.append(closing[0])
        strokes.append([(100 * (x + 0.5) / 28, 100 * (y + 0.5) / 28) for x, y in [*walk[:-1:2], walk[-1]]])
    return strokes


def test_strokes_of_test_digits(page, scans, capsys):
    images, classes = scans
    found = [(drawn(page, traced(images[i].view(28, 28).numpy())), int(classes[i])) for i in range(12)]
    right = sum(kind == "digit" and text == str(y) for (kind, text), y in found)
    doubted = sum(kind == "doubt" for (kind, _), _ in found)
    with capsys.disabled():
        print(f"\n12 test digits redrawn: {right} right, {doubted} doubted")
    assert right >= 10 and right + doubted >= 11, found


def in_the_page(page, images, file="digits.safetensors"):
    """Probabilities of every network for uint8 images (N, 784), computed in the browser."""
    code = """async ([file, text]) => {
        const { readPacked } = await import("./packed.js");
        const network = readPacked(await (await fetch(file)).arrayBuffer());
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return Array.from({ length: bytes.length / 784 }, (_, i) =>
            network.predict(network.inputs.prepare(bytes.subarray(784 * i, 784 * i + 784))).each.map((p) => [...p]));
    }"""
    text = base64.b64encode(images.numpy().tobytes()).decode()
    return np.array(page.evaluate(code, [file, text])).transpose(1, 0, 2)


def agrees(page, network, images, file="digits.safetensors"):
    data = TensorData(images, torch.zeros(len(images)), network.inputs.mean, network.inputs.std)
    wanted = bb.packed.load(network).predict(data.inputs(torch.arange(len(images))).numpy())
    each = in_the_page(page, images, file)
    np.testing.assert_allclose(each, wanted.sample_probs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(each.mean(0), wanted.probs, rtol=0, atol=1e-6)
    assert (each.mean(0).argmax(1) == wanted.probs.argmax(1)).all()
    assert (each.argmax(2) == wanted.sample_probs.argmax(2)).all()
    return wanted


def test_agrees_with_the_reference_on_generated_images(page):
    noise = torch.randint(256, (40, 784), dtype=torch.uint8)
    agrees(page, SHIPPED, noise * (torch.rand(40, 1) > torch.rand(40, 784)))


def test_agrees_with_the_reference_on_test_images(page, scans):
    images, classes = scans
    wanted = agrees(page, SHIPPED, images)
    refused = wanted.entropy > float(SHIPPED.program.about["doubt"])
    assert (wanted.probs.argmax(1) == classes)[~refused].mean() > 0.98 and refused.mean() < 0.1


def test_other_perceptrons_of_the_format(page, folder):
    """Biases, thresholds with directions, odd widths, real layers, float16, PReLU and tanh; one network and several."""
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 21),
        torch.nn.BatchNorm1d(21),
        torch.nn.PReLU(21),
        torch.nn.Linear(21, 13, bias=False),
        bb.nn.BinaryActivation(),
        torch.nn.Linear(13, 19, bias=False),
        torch.nn.BatchNorm1d(19),
        bb.nn.BinaryActivation(),
        torch.nn.Linear(19, 11),
        torch.nn.Tanh(),
        torch.nn.Linear(11, 10),
    )
    with torch.no_grad():
        model[6].weight.copy_(torch.randn(19))  # of both signs: thresholds with directions
    x = torch.randn(64, 784)
    bb.refresh_batchnorm(model, [x])
    names = {f"{i}.weight": model[i].weight for i in (0, 3, 5, 8)}
    optimizer = bb.BayesBiNN(list(names.items()), ess=10, seed=0)
    optimizer.eval()
    inputs = bb.packed.Inputs("image", colour="grey", height=28, width=28, mean=0.5, std=0.25)
    images = torch.randint(256, (20, 784), dtype=torch.uint8)
    several = {"posterior": optimizer.posterior(), "samples": 3, "batches": [x]}
    for index, (real, options) in enumerate([("float32", {}), ("float16", several), ("float32", several)]):
        network = bb.pack(model, x, real=real, inputs=inputs, **options)
        assert {"threshold", "prelu", "tanh", "affine"} <= {step.op for step in network.program.steps}
        file = f"other-{index}.safetensors"  # a browser keeps a name's first file
        network.save(folder / file)
        agrees(page, network, images, file)


def edited(data, old, new):
    """A file with a change in its header, whose length is put right."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(old, new, 1)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def wide(inputs, outputs):
    """A linear layer of zeros with a factor for each output: a small page is not to run it."""
    steps = (Step("reshape", (0,), "", {"shape": [784]}), Step("linear", (1,), "", {}, {"weight": "a"}))
    more = (Step("linear", (2,), "", {}, {"weight": "b"}),)
    tensors = {"a": np.zeros((inputs, 98), np.uint8), "b": np.zeros((outputs, inputs // 8), np.uint8)}
    return saved(PackedNetwork(Program((784,), 1, steps + more), tensors))


def saved(network):
    with tempfile.TemporaryDirectory() as place:
        network.save(Path(place, "net"))
        return Path(place, "net").read_bytes()


def flipped():
    """The network of the demo with a digest, and one bit of a weight that has changed since."""
    data = bytearray(saved(SHIPPED))
    data[-1] ^= 1
    return bytes(data)


BAD = {
    "empty": (lambda data: b"", "shorter than it says"),
    "cut": (lambda data: data[:-100], "do not fill it"),
    "text": (lambda data: b"<!doctype html><p>nothing here", "shorter than it says"),
    "version": (lambda data: data.replace(rb"\"version\":2", rb"\"version\":7"), "version 7 of the format"),
    "operation": (lambda data: data.replace(rb"\"op\":\"clamp\"", rb"\"op\":\"crash\""), 'no operation "crash"'),
    "type": (lambda data: data.replace(b'"dtype":"U8"', b'"dtype":"U9"', 1), "no allowed name or type"),
    "shape": (lambda data: data.replace(rb"\"input\":[784]", rb"\"input\":[783]"), "step 0"),
    "program": (lambda data: data.replace(b"bitbayes.packed", b"bitbayes.parked"), "must have the entry"),
    "deviation": (lambda data: data.replace(b"[0.3081]", b"[0.0]   "), "inputs: std must be at least 0.000001"),
    "mean": (lambda data: data.replace(b"[0.1307]", b"[1e999] "), "inputs: mean and std must be lists of numbers"),
    "size": (lambda data: data.replace(rb"\"height\":28", rb"\"height\":29"), "do not fit inputs of [784]"),
    "colour": (lambda data: data.replace(rb"\"grey\"", rb"\"gray\""), "inputs: colour must be grey or rgb"),
    "names": (lambda data: data.replace(rb",\"9\"]", rb"]      "), "9 names for 10 outputs"),
    "blank": (lambda data: data.replace(rb"\"9\"]", rb"\" \"]"), "a class's name must be 1 to 100 printable"),
    "record": (lambda data: data.replace(rb"\"kind\"", rb"\"sort\""), "inputs must be an object"),
    "twice": (
        lambda data: edited(data, b'"samples\\":', b'"samples\\":1,\\"samples\\":'),
        'has the name "samples" twice',
    ),
    "tensor-twice": (
        lambda data: edited(data, b'{"__metadata__"', b'{"x":{},"x":{},"__metadata__"'),
        'the name "x" twice',
    ),
    "fraction": (
        lambda data: edited(data, rb"\"version\":2", rb"\"version\":2.0"),
        "the program has 2.0 where an integer is expected",
    ),
    "real-shape": (
        lambda data: edited(data, rb"\"input\":[784]", rb"\"input\":[7.84e2]"),
        "the program has 7.84e2 where an integer is expected",
    ),
    "deep": (
        lambda data: edited(data, b'{"__metadata__"', b'{"x":' + b"[" * 99 + b"]" * 99 + b',"__metadata__"'),
        "16 levels",
    ),
    "work": (lambda data: wide(1 << 15, 1 << 15), "operations for one input; this page runs at most 1073741824"),
    "numbers": (lambda data: wide(8, 1 << 20), "numbers; this page holds at most 1048576"),
    "flipped": (lambda data: flipped(), "the file is damaged: its SHA-256 is not that of what was written"),
    "missing": (None, "404"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_one_clear_line(browser, site, folder, name):
    change, message = BAD[name]
    if change is not None:
        data = (DEMO / "digits.safetensors").read_bytes()
        changed = change(data)
        assert changed != data
        (folder / f"{name}.safetensors").write_bytes(changed)
    page = browser.new_page()
    page.goto(f"{site}?network={name}.safetensors")
    page.wait_for_selector("#problem:not([hidden])")
    line = page.locator("#problem").inner_text()
    assert message in line and line.startswith(f"{name}.safetensors cannot be used: ") and "\n" not in line
    assert state(page) == ("error", "No network")
    page.close()


def test_a_file_without_inputs_is_read_but_not_shown(browser, site, folder):
    """One of version 1, as `bb.pack` wrote it before."""
    shutil.copy(DEMO / "digits.safetensors", folder / "new.safetensors")
    data = (folder / "new.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    program = json.loads(header["__metadata__"]["bitbayes.packed"])
    del program["inputs"]
    program["version"] = 1
    header["__metadata__"]["bitbayes.packed"] = json.dumps(program)
    text = json.dumps(header).encode()
    (folder / "one.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert bb.packed.PackedNetwork.read(folder / "one.safetensors").inputs is None
    page = browser.new_page()
    page.goto(f"{site}?network=one.safetensors")
    page.wait_for_selector("#problem:not([hidden])")
    assert "it does not say what its inputs are; pack it again" in page.locator("#problem").inner_text()
    code = """async () => {
        const { readPacked } = await import("./packed.js");
        const network = readPacked(await (await fetch("one.safetensors")).arrayBuffer());
        return [network.inputs, network.samples];
    }"""
    assert page.evaluate(code) == [None, SHIPPED.program.samples]
    page.close()


def test_classes_have_the_names_of_the_file(browser, site, folder):
    names = tuple(f"number {digit} <b>" for digit in range(10))
    program = replace(SHIPPED.program, inputs=replace(SHIPPED.inputs, classes=names))
    bb.packed.PackedNetwork(program, SHIPPED.tensors).save(folder / "named.safetensors")
    page = browser.new_page()
    page.goto(f"{site}?network=named.safetensors")
    page.wait_for_selector('#answer[data-state="empty"]')
    assert drawn(page, DIGITS[1]) == ("digit", "number 1 <b>")
    assert "networks say number 1 <b>; their mean is" in page.locator("#reason").inner_text()
    assert page.locator("#classes .digit").all_inner_texts() == list(names)
    page.close()


def test_colour_is_normalised_by_channels(page):
    """As `prepare` does in Python, from pixels whose channels lie side by side."""
    inputs = bb.packed.Inputs("image", colour="rgb", height=2, width=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    program = bb.packed.Program((3, 2, 3), 1, (bb.packed.Step("sign", (0,)),), inputs=inputs)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    code = """async ([entry, pixels]) => {
        const { readInputs } = await import("./inputs.js");
        return [...readInputs(entry, [3, 2, 3], 18).prepare(Uint8Array.from(pixels))];
    }"""
    entry = json.loads(program_text(program))["inputs"]
    got = np.array(page.evaluate(code, [entry, pixels.reshape(-1).tolist()]), np.float32)
    assert np.array_equal(got, bb.packed.PackedNetwork(program, {}).prepare(pixels).reshape(-1))


def test_three_sentences_explain_what_is_seen(page):
    text = page.locator("header p").inner_text()
    assert len(re.findall(r"\.(?=\s|$)", text)) == 3
    assert all(word in text for word in ("Each bar", "each dot", "“I don’t know”"))
    page.click('[data-example="letter"]')
    limit = float(SHIPPED.program.about["doubt"])
    entropy, shown = re.fullmatch(r"([\d.]+) nats \(limit ([\d.]+)\)", page.locator("#nats").inner_text()).groups()
    assert float(entropy) > limit == pytest.approx(float(shown), abs=0.005)


def test_keyboard_and_phone(browser, site):
    """Everything by keys; nothing wider than a phone; both schemes; answers are announced."""
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
        page.goto(site)
        page.wait_for_selector('#answer[data-state="empty"]')
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        seen = []
        for _ in range(4):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.textContent"))
        assert seen == ["Clear", "A digit", "A letter", "A scribble"]
        page.keyboard.press("Enter")
        assert state(page)[0] == "doubt" and page.locator("#spoken").inner_text().startswith("I don’t know. ")
        page.keyboard.press("Escape")
        assert state(page)[0] == "empty" and page.locator("#spoken").inner_text() == ""
        box = page.locator("#pad").bounding_box()
        page.touchscreen.tap(box["x"] + 50, box["y"] + 50)
        assert state(page)[0] != "empty"
        assert page.evaluate("scrollY") == 0
        page.close()


def test_every_example_is_what_it_says(page):
    for kind, wanted in {"digit": "digit", "letter": "doubt", "scribble": "doubt"}.items():
        for _ in range(4):
            page.click(f'[data-example="{kind}"]')
            assert state(page)[0] == wanted, (kind, state(page))


def test_the_file_is_small_and_says_what_it_is():
    assert (DEMO / "digits.safetensors").stat().st_size <= 1_300_000
    assert SHIPPED.program.samples >= 8
    assert {"network", "figures", "rule", "doubt"} <= set(SHIPPED.program.about)
    assert SHIPPED.inputs == replace(INPUTS, mean=0.1307, std=0.3081)


def test_training_makes_such_a_file(tmp_path, monkeypatch, capsys):
    needs.EXPERIMENTS.module("matplotlib")
    data = write(tmp_path / "mnist", "mnist", train=200, test=40)
    words = [data, "--epochs", "1", "--width", "16", "--samples", "2", "--scribbles", "120", "--out", tmp_path / "net"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    runpy.run_path(str(DEMO / "train.py"), run_name="__main__")
    assert "of printed letters (432)" in capsys.readouterr().out
    network = bb.packed.load(tmp_path / "net").network
    assert network.program.samples == 2 and set(network.program.about) == set(SHIPPED.program.about)
