"""The network of the browser demo: 16 drawn from a posterior over 1-bit weights, in one packed file.

    python docs/demo/train.py FOLDER [--unlike FASHION-MNIST] [--scribbles 0]

FOLDER holds MNIST as parquet files or as the original idx files. Besides digits the network sees made-up scribbles,
for which every class is equally right, so that it learns where its knowledge ends. Printed letters and clothes are
never trained on: they say whether the doubt reaches further. It writes digits.safetensors beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitbayes as bb
from bitbayes.calibration import probability_figures, separation
from bitbayes.lab.data import TensorData, batches, load_fashion_mnist, load_mnist
from bitbayes.posterior import Posterior
from bitbayes.prediction import Prediction

HERE = Path(__file__).resolve().parent
UNLIKE_DIGITS = "ACEFGHKMNPRTUVWXYadefhkmnrtuwxy&@#?%"  # B, O, l and the like could be digits
REFUSED = 0.05  # share of the validation digits that the threshold gives up


@dataclasses.dataclass(frozen=True)
class Wobble:
    """Turns, slants, scales and moves images (N, 1, 28, 28) a little: the hand of another writer."""

    uniforms = 6

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        turn, slant, wide, tall, right, down = (2 * uniform - 1).unbind(1)
        turn, slant, wide, tall = 0.22 * turn, 0.25 * slant, 1 + 0.12 * wide, 1 + 0.12 * tall
        cos, sin = turn.cos(), turn.sin()
        rows = [torch.stack([cos * wide, (slant * cos - sin) * tall, 0.1 * right], 1)]
        rows += [torch.stack([sin * wide, (slant * sin + cos) * tall, 0.1 * down], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, align_corners=False).round().to(images.dtype)


def rendered(segments: Tensor, radius: Tensor) -> Tensor:
    """Strokes as MNIST has them: fit into 20×20, centre of mass at (14, 14); `ink.js` does the same.

    Segments (N, S, 4) of x, y, x, y; radius (N,) of the pen in pixels. Returns uint8 images (N, 784).
    """
    ends = segments.view(len(segments), -1, 2)
    low, high = ends.min(1).values, ends.max(1).values
    room = (high - low).max(1).values.clamp(min=0.2)
    ends = (ends - (low + high)[:, None] / 2) * ((20 - 2 * radius) / room)[:, None, None]
    i = torch.arange(28.0)
    pixels = torch.stack(torch.meshgrid(i, i, indexing="xy"), -1).view(784, 2)

    def ink(ends: Tensor) -> Tensor:
        start, end = ends.view(len(ends), -1, 2, 2).unbind(2)
        along = end - start
        # |p − a − t (b − a)|² with t = (p − a)·(b − a) / |b − a|², from products of matrices: (N, 784, S).
        length = along.square().sum(2)[:, None].clamp(min=1e-6)
        reach = pixels @ along.mT - (start * along).sum(2)[:, None]
        t = (reach / length).clamp_(0, 1)
        square = (start.square().sum(2)[:, None] - 2 * pixels @ start.mT).add_(pixels.square().sum(1)[:, None])
        square = square.addcmul_(t, (t * length).sub_(reach, alpha=2)).amin(2)
        return (radius[:, None] + 0.5 - square.clamp_(min=0).sqrt_()).clamp_(0, 1)

    first = ink(ends + 14)
    mass = first @ pixels / first.sum(1, keepdim=True)
    return (255 * ink(ends + 28 - mass[:, None])).round().to(torch.uint8)


def curves(count: int, g: torch.Generator) -> Tensor:
    """One line that wanders: sums of sines, from a knot to a dense scrawl; segments (count, 48, 4)."""
    waves = torch.arange(1.0, 13)
    last, fall = 4 + 8 * torch.rand(count, 1, 1, generator=g), 0.8 * torch.rand(count, 1, 1, generator=g)
    size = torch.randn(count, 2, 12, generator=g) * waves**-fall * (waves <= last)
    phase = 2 * math.pi * torch.rand(count, 2, 12, 1, generator=g)
    t = torch.linspace(0, 1, 49)
    points = (size[..., None] * (math.pi * waves[:, None] * t + phase).sin()).sum(2).transpose(1, 2)
    return torch.cat([points[:, :-1], points[:, 1:]], 2)


def signs(count: int, g: torch.Generator) -> Tensor:
    """Three to six lines and arcs between nine places, like letters of no alphabet; segments (count, 48, 4)."""
    places = torch.randint(3, (count, 7, 2), generator=g) / 2 + 0.12 * torch.randn(count, 7, 2, generator=g)
    apart = torch.randint(3, (count, 6, 2), generator=g) / 2 + 0.12 * torch.randn(count, 6, 2, generator=g)
    joined = torch.rand(count, 6, 1, generator=g) < 0.5
    a, b = torch.where(joined, places[:, :-1], apart), places[:, 1:]
    bend = torch.randn(count, 6, 1, generator=g) * (torch.rand(count, 6, 1, generator=g) < 0.4)
    middle = (a + b) / 2 + bend * (b - a).flip(2) * torch.tensor([1.0, -1.0])
    t = torch.linspace(0, 1, 9)[:, None]
    points = (1 - t) ** 2 * a[:, :, None] + 2 * t * (1 - t) * middle[:, :, None] + t**2 * b[:, :, None]
    segments = torch.cat([points[:, :, :-1], points[:, :, 1:]], 3)
    strokes = torch.randint(3, 7, (count, 1), generator=g)
    kept = torch.minimum(torch.arange(6).expand(count, 6), strokes - 1)  # the last one again, in place of none
    return segments[torch.arange(count)[:, None], kept].view(count, 48, 4)


def dashes(count: int, g: torch.Generator) -> Tensor:
    """A dot or a short dash; segments (count, 1, 4)."""
    start = torch.rand(count, 1, 2, generator=g)
    return torch.cat([start, start + 0.1 * torch.rand(count, 1, 2, generator=g)], 2)


def scribbles(count: int, digits: TensorData, seed: int = 0) -> Tensor:
    """What is no digit, uint8 (about `count`, 784): drawn lines, two digits at once, lying digits, noise."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for kind, share in ((curves, 0.35), (signs, 0.4), (dashes, 0.02)):
        for _ in range(math.ceil(share * count / 100)):
            found.append(rendered(kind(100, g), 0.8 + torch.rand(100, generator=g)))
    few = count // 12
    one, other = torch.randint(len(digits), (2, few), generator=g)
    both = torch.maximum(digits.x[one], digits.x[other])
    lying = digits.x[(digits.y != 0) & (digits.y != 1) & (digits.y != 8)][:few].view(-1, 28, 28)
    noise = torch.rand(few, 1, 28, 28, generator=g) < 0.6 * torch.rand(few, 1, 1, 1, generator=g)
    smooth = F.avg_pool2d(F.pad(noise.float(), [1] * 4), 3, 1)
    noise = torch.where(torch.rand(few, 1, 1, 1, generator=g) < 0.5, noise.float(), (3 * smooth - 0.6).clamp(0, 1))
    extra = [both[digits.y[one] != digits.y[other]], torch.rot90(lying, 1, (1, 2)).flatten(1)]
    return torch.cat([*found, *extra, (255 * noise).flatten(1).to(torch.uint8)])


def letters() -> Tensor:
    """Letters in the fonts that ship with matplotlib, made like MNIST; uint8 (N, 784)."""
    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    images = []
    for font in sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf")):
        if "Display" in font.name:
            continue  # they have few letters
        for letter in UNLIKE_DIGITS:
            page = Image.new("L", (200, 200))
            ImageDraw.Draw(page).text((40, 30), letter, 255, ImageFont.truetype(str(font), 100))
            shape = page.crop(page.getbbox())
            scale = 20 / max(shape.size)
            wide, tall = (max(1, round(scale * side)) for side in shape.size)
            small = np.asarray(shape.resize((wide, tall), Image.Resampling.BOX), float)
            y, x = (round(14 - (small.sum(1 - axis) @ np.arange(small.shape[axis])) / small.sum()) for axis in (0, 1))
            y, x = min(max(y, 0), 28 - tall), min(max(x, 0), 28 - wide)
            image = np.zeros((28, 28), np.uint8)
            image[y : y + tall, x : x + wide] = small.round()
            images.append(image.reshape(-1))
    return torch.from_numpy(np.stack(images))


def trained(o: argparse.Namespace, digits: TensorData, others: TensorData) -> tuple[nn.Module, Posterior]:
    """BayesBiNN on digits, and on scribbles with the target "any of the ten"; both wobble."""
    model = bb.nn.mlp(784, [o.width, o.width], 10)
    binary, real = bb.split_parameters(model)
    optimizer = bb.BayesBiNN(binary, lr=5e-3, ess=o.ess * len(digits), seed=0)
    optimizers = (optimizer, torch.optim.Adam(real, lr=1e-3))
    steps = o.epochs * -(-len(digits) // 200)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in optimizers]
    start, loss = time.perf_counter(), torch.zeros(())
    for epoch in range(o.epochs):
        for x, y in batches(digits, 200, epoch=epoch, shuffle=True, augment=True):
            log_probs = model(torch.cat([x, some(others)])).log_softmax(1)
            loss = F.nll_loss(log_probs[: len(x)], y)
            if len(others):
                loss = loss - 0.3 * log_probs[len(x) :].mean()
            loss.backward()
            for each, schedule in zip(optimizers, schedules, strict=True):
                each.step()
                each.zero_grad()
                schedule.step()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {o.epochs}, {seconds:.0f} s, loss {loss.item():.3f}", flush=True)
    optimizer.eval()
    return model, optimizer.posterior()


def some(others: TensorData, count: int = 80) -> Tensor:
    """Inputs of a few scribbles, (count, 1, 28, 28), or of none if there are none."""
    if not len(others):
        return others.x.float()
    at = torch.randint(len(others), (count,))
    return others.inputs(at, torch.rand(len(at), Wobble.uniforms))


def share(which: Tensor) -> str:
    """Return the share of entries that are true, in percent."""
    return f"{100 * float(which.float().mean()):.1f}%"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--unlike", help="folder of Fashion-MNIST, to measure the doubt on clothes too")
    parser.add_argument("--out", default=str(HERE / "digits.safetensors"))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--ess", type=float, default=100.0, help="in units of the number of training digits")
    parser.add_argument("--scribbles", type=int, default=12_000, help="made-up images; 0: digits alone")
    return parser.parse_args()


def main() -> None:
    """Trains, chooses the threshold of the doubt, measures, and writes the file."""
    o = options()
    torch.manual_seed(0)
    data = load_mnist(o.folder)
    assert data.validation is not None and data.test is not None
    digits = dataclasses.replace(data.train, x=data.train.x.view(-1, 1, 28, 28), augment=Wobble())
    marks = scribbles(o.scribbles, data.train) if o.scribbles else data.train.x[:0]
    others = dataclasses.replace(digits, x=marks.view(-1, 1, 28, 28), y=torch.zeros(len(marks)))
    model, posterior = trained(o, digits, others)
    # Every drawn network gets BatchNorm statistics of its own, from what it was trained on.
    usual = batches(digits, 200, epoch=o.epochs, shuffle=True, augment=True)
    inputs = [torch.cat([x, some(others)]).flatten(1) for x, _ in itertools.islice(usual, 50)]

    def predicted(images: Tensor) -> Prediction:
        x = dataclasses.replace(data.train, x=images, y=torch.zeros(len(images))).inputs(torch.arange(len(images)))
        return bb.predict(model, x, posterior, o.samples, batches=inputs, chunk=1000)

    held, test = predicted(data.validation.x), predicted(data.test.x)
    threshold = float(held.entropy.quantile(1 - REFUSED))
    kept = test.entropy <= threshold
    right = test.probs.argmax(1) == data.test.y
    figures = probability_figures(test.probs, data.test.y)
    accuracy, kept_accuracy = figures["accuracy"], 100 * float(right[kept].float().mean())
    score = (
        f"Their mean classifies {accuracy:.2f}% of the MNIST test digits correctly. It refuses {share(~kept)} of them, "
        f"and classifies {kept_accuracy:.2f}% of the rest correctly."
    )
    print(f"{score} NLL {figures['nll']:.4f}, ECE {figures['ece']:.4f}, threshold {threshold:.4f} nats")
    print(f"posterior: {float(posterior.entropy()):.3f} bits per weight")
    unlike = {"printed letters": letters(), "new scribbles": scribbles(1200, data.test, seed=1)}
    if o.unlike:
        clothes = load_fashion_mnist(o.unlike).test
        assert clothes is not None
        unlike["images of clothes"] = clothes.x
    refused = []
    for name, images in unlike.items():
        found = predicted(images)
        refused.append(f"{share(found.entropy > threshold)} of {name}")
        entropy = separation(test.entropy, found.entropy)
        information = separation(test.mutual_information, found.mutual_information)
        print(f"refused {refused[-1]} ({len(images)}), AUROC {entropy:.3f}, by mutual information {information:.3f}")
    *first, last = refused
    about = {
        "network": f"784-{o.width}-{o.width}-10",
        "figures": score,
        "rule": f"This limit refuses {100 * REFUSED:.0f}% of the validation digits, {', '.join(first)} and {last}.",
        "doubt": f"{threshold:.4f}",
    }
    bb.pack(model, inputs[0], posterior, o.samples, batches=inputs, about=about, inputs=data.inputs).save(o.out)
    print(f"{o.out}: {Path(o.out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
