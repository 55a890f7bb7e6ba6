"""Shared by tests and doctests: one thread, a fixed seed, the names that examples use, and a line about skips."""

import importlib.util
from collections import Counter

import pytest
import torch

import bitbayes

torch.set_num_threads(1)

# Modules for a trainer need its package, and doctests import every module.
collect_ignore = [
    f"src/bitbayes/integrations/{name}.py"
    for name in ("lightning", "transformers")
    if importlib.util.find_spec(name) is None
]


@pytest.fixture(autouse=True)
def _reproducible(doctest_namespace: dict[str, object]) -> None:
    torch.manual_seed(0)
    doctest_namespace["torch"] = torch
    doctest_namespace["bb"] = bitbayes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped, what they need, and which command brings it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.write_line(skipped(reasons))


def skipped(reasons: Counter[str]) -> str:
    """Return that line; the reasons are those of `tests/needs.py`, or texts of a test's own.

    Example:
        >>> skipped(Counter({"needs a CUDA device": 2, "needs IVON (pip install ivon-opt)": 1}))
        '3 skipped: 2 need a CUDA device; 1 needs IVON (pip install ivon-opt). Run `make tools` for ...'
    """
    parts = []
    for reason, count in reasons.most_common():
        _, need, what = reason.partition("needs ")
        parts.append(f"{count} {'needs' if count == 1 else 'need'} {what}" if need else f"{count}: {reason}")
    line = f"{reasons.total()} skipped: {'; '.join(parts)}."
    return line + " Run `make tools` for what a command can bring." * ("install " in line)
