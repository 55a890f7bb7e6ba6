"""The idea in one picture: one step of BayesBiNN, with the numbers of a real training run on two moons."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from parts.arrows import head
from style import scheme

import bitbayes as bb

_SIDE, _CELL = 6, 19  # 36 weights are shown; a cell is this wide
_WIDTH = _SIDE * _CELL  # of the cells of a panel
_END = 14 + _WIDTH  # of a panel, which begins with a margin of 14
_TOP = 78
_PANELS = {
    "belief": (32, "Belief", "P[w = +1], in the optimizer"),
    "weights": (240, "Weights", "−1 or +1, in the network"),
    "gradient": (448, "Gradient", "of the loss, at these weights"),
}
_USES = (
    ("mode", "the ±1 network that you deploy"),
    ("samples", "how uncertain each prediction is"),
    ("prior", "where the next task begins"),
)


def draw() -> str:
    """Return the SVG."""
    probability, sign, gradient = one_step()
    parts = [_panel(*_PANELS[name]) for name in _PANELS]
    parts += [_cell("belief", i, abs(2 * p - 1), p > 0.5) for i, p in enumerate(probability)]
    parts += [_cell("weights", i, 1.0, s > 0) for i, s in enumerate(sign)]
    largest = max(abs(g) for g in gradient)
    parts += [_dot(i, (abs(g) / largest) ** 0.5, g > 0) for i, g in enumerate(gradient)]
    parts += [_arrow_between("belief", "weights", "step()", "draw")]
    parts += [_arrow_between("weights", "gradient", "backward()", "your loss")]
    return _page([*parts, _arrow_back(), *_uses(652)])


def one_step() -> tuple[list[float], list[float], list[float]]:
    """Return the belief of some weights early in training, a draw from it, and the gradient at the draw."""
    torch.manual_seed(0)
    label = torch.arange(200) % 2
    angle = torch.pi * torch.rand(200)
    x = torch.stack([angle.cos() + label - 0.5, angle.sin() * (1 - 2 * label) + 0.5 * label - 0.5], 1)
    model = bb.nn.mlp(2, [64, 64], 2)
    binary, real = bb.split_parameters(model)
    optimizer = bb.BayesBiNN(binary, ess=10 * len(x), lr=0.02, init_lambda=0.5, seed=0)
    adam = torch.optim.Adam(real, lr=1e-2)
    name, weight = next((name, weight) for name, weight in binary if weight.shape == (64, 64))
    for step in range(40):
        batch = torch.randint(len(x), (50,))
        torch.nn.functional.cross_entropy(model(x[batch]), label[batch]).backward()
        if step == 39:
            break
        optimizer.step()
        adam.step()
        optimizer.zero_grad()
        adam.zero_grad()
    assert weight.grad is not None
    probability = torch.sigmoid(2 * optimizer.posterior().natural[name])
    return _shown(probability), _shown(weight.detach()), _shown(weight.grad)


def _shown(tensor: torch.Tensor) -> list[float]:
    return tensor[8 : 8 + _SIDE, 20 : 20 + _SIDE].flatten().tolist()


def _place(panel: str, index: int) -> tuple[int, int]:
    return _PANELS[panel][0] + 14 + index % _SIDE * _CELL, _TOP + index // _SIDE * _CELL


def _colour(positive: bool) -> str:
    return f"var(--{'blue' if positive else 'orange'})"


def _cell(panel: str, index: int, strength: float, positive: bool) -> str:
    x, y = _place(panel, index)
    size = _CELL - 2
    return (
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" rx="2" fill="{_colour(positive)}" '
        f'fill-opacity="{strength:.2f}" stroke="var(--line)"/>'
    )


def _dot(index: int, size: float, positive: bool) -> str:
    x, y = _place("gradient", index)
    middle = _CELL / 2 - 1
    return f'<circle cx="{x + middle}" cy="{y + middle}" r="{middle * size:.1f}" fill="{_colour(positive)}"/>'


def _panel(x: int, title: str, what: str) -> str:
    middle = x + 14 + _WIDTH / 2
    return f'<text x="{middle}" y="42" class="title">{title}</text><text x="{middle}" y="62">{what}</text>'


def _arrow_between(left: str, right: str, code: str, what: str) -> str:
    start, end = _PANELS[left][0] + _END + 8, _PANELS[right][0] + 6
    y, middle = _TOP + _WIDTH // 2, (start + end) / 2
    return (
        f'<path d="M{start} {y}H{end}" class="arrow" marker-end="url(#head)"/>'
        f'<text x="{middle}" y="{y - 10}" class="code">{code}</text>'
        f'<text x="{middle}" y="{y + 24}">{what}</text>'
    )


def _arrow_back() -> str:
    left, right = (_PANELS[name][0] + 14 + _WIDTH / 2 for name in ("belief", "gradient"))
    top, low = _TOP + _WIDTH + 8, _TOP + _WIDTH + 30
    return (
        f'<path d="M{right} {top}V{low - 10}Q{right} {low} {right - 10} {low}H{left + 10}'
        f'Q{left} {low} {left} {low - 10}V{top + 1}" class="arrow" marker-end="url(#head)"/>'
        f'<text x="{(left + right) / 2}" y="{low + 20}"><tspan class="code">step()</tspan>'
        " updates the belief by a natural-gradient step</text>"
    )


def _uses(x: int) -> Iterator[str]:
    yield f'<text x="{x}" y="42" class="title start">One run gives</text>'
    for row, (name, what) in enumerate(_USES):
        y = _TOP + 16 + row * 44
        yield f'<text x="{x}" y="{y}" class="code start">{name}</text>'
        yield f'<text x="{x}" y="{y + 19}" class="start">{what}</text>'


def _page(parts: list[str]) -> str:
    style = (
        "text{font:13px system-ui,'DejaVu Sans',sans-serif;fill:var(--muted);text-anchor:middle}"
        ".title{font-size:16px;font-weight:600;fill:var(--ink)}.start{text-anchor:start}"
        ".code{font-family:ui-monospace,'DejaVu Sans Mono',monospace;fill:var(--ink)}"
        ".arrow{fill:none;stroke:var(--muted);stroke-width:1.6}"
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 262" width="900" height="262" role="img" '
        'aria-label="One training step: belief, drawn weights, gradient, updated belief">\n'
        f"<style>{scheme()}{style}</style>\n"
        f"{head('muted')}\n"
        '<rect width="900" height="262" rx="8" fill="var(--paper)"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
