"""Reads the files of runs, some of which are being written, or are damaged."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitbayes.lab.train import RunConfig
from bitbayes.lab.train.folder import one_line
from bitbayes.lab.train.measure import histogram
from bitbayes.posterior import load_posterior

__all__ = ["BINS", "Reader"]

BINS = 50


@dataclass
class Reader:
    """Reads files, and keeps one line for each that it could not.

    Args:
        now: Seconds since 1970.
        notes: What was left out.
    """

    now: float
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Keeps a line.

        Args:
            line: What was left out, and why.
        """
        if line not in self.notes:
            self.notes.append(line)

    def _refuse(self, path: Path, what: str, error: Exception) -> None:
        """A note with the path, which some errors name themselves."""
        line = " ".join(str(error).split())
        self.note(line if str(path) in line else f"{path} {what}: {one_line(error)}")

    def config(self, folder: Path) -> RunConfig | None:
        """The record of a run.

        Args:
            folder: Of the run.

        Returns:
            The record, or None after a note.
        """
        try:
            return RunConfig.load(folder)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            self._refuse(folder / "config.json", "is not a record of a run", error)
            return None

    def object(self, path: Path) -> dict[str, Any]:
        """A JSON object.

        Args:
            path: The file.

        Returns:
            Its content; empty if there is none, or after a note.
        """
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self._refuse(path, "is damaged", error)
            return {}
        if not isinstance(found, dict):
            self.note(f"{path} is damaged: it holds no JSON object")
            return {}
        return found

    def scalars(self, path: Path) -> dict[str, Any]:
        """The numbers and texts of a JSON object.

        Args:
            path: The file.

        Returns:
            Its entries that are one or the other.
        """
        return {key: value for key, value in self.object(path).items() if isinstance(value, str) or _number(value)}

    def lines(self, path: Path) -> list[dict[str, Any]]:
        """A file of JSON objects, one a line.

        Args:
            path: The file.

        Returns:
            The lines that can be read; a last one that is still being written is left out without a note.
        """
        if not path.is_file():
            return []
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.note(f"{path} cannot be read: {error.strerror}")
            return []
        found, damaged = [], []
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                found.append(row)
            elif line.endswith("\n"):
                damaged.append(str(number))
        if damaged:
            shown = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
            self.note(f"{path}: left out {'line' if len(damaged) == 1 else 'lines'} {shown}, which cannot be read")
        return found

    def metrics(self, folder: Path) -> list[dict[str, float]]:
        """The numbers of metrics.jsonl.

        Args:
            folder: Of the run.

        Returns:
            One record an evaluation, each with an epoch.
        """
        rows = [{key: value for key, value in row.items() if _number(value)} for row in self.lines(_metrics(folder))]
        return [row for row in rows if "epoch" in row]

    def weights(self, path: Path) -> list[float]:
        """A histogram of the probabilities of a posterior.

        Args:
            path: posterior.safetensors.

        Returns:
            Percent of the weights in each of `BINS` equal parts of [0, 1]; empty if there is no such file, or after a
            note.
        """
        if not path.is_file():
            return []
        try:
            percent = histogram(load_posterior(path), BINS)
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            self._refuse(path, "is damaged", error)
            return []
        if not all(map(math.isfinite, percent)):  # of none
            self.note(f"{path} holds no weights")
            return []
        return percent

    def beliefs(self, folder: Path) -> list[tuple[float, list[float]]]:
        """The histograms in metrics.jsonl.

        Args:
            folder: Of the run.

        Returns:
            Epoch, and percent of the weights in equal parts of P[w = +1], at least 10.
        """
        found: list[tuple[float, list[float]]] = []
        for row in self.lines(_metrics(folder)):
            epoch, shares = row.get("epoch"), row.get("probabilities")
            if isinstance(epoch, int) and isinstance(shares, list) and len(shares) >= 10:
                if all(map(_number, shares)) and sum(shares) > 0:
                    found.append((float(epoch), shares))
        return found

    def newest(self, folder: Path) -> float:
        """When something was last written.

        Args:
            folder: Of the run.

        Returns:
            Seconds since 1970.
        """
        times = [path.stat().st_mtime for path in (folder / "config.json", _metrics(folder)) if path.is_file()]
        return max(times, default=0.0)


def _metrics(folder: Path) -> Path:
    return folder / "metrics.jsonl"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
