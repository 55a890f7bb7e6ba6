"""What is remembered: accuracy on every task after every task, and the figures that are read off it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AccuracyMatrix"]

_ENDS = 5  # tasks at either end of a long stream


class AccuracyMatrix:
    """R[t][i]: accuracy on task i after training on task t, for i ≤ t, in percent.

    Average accuracy and backward transfer are those of Lopez-Paz & Ranzato (NeurIPS 2017), forgetting that of Chaudhry
    et al. (ECCV 2018).

    Args:
        rows: Row t has t + 1 entries.

    Raises:
        ValueError: If a row has another length.

    Example:
        >>> matrix = AccuracyMatrix([[90.0], [80.0, 94.0]])
        >>> matrix.average, matrix.backward_transfer, matrix.forgetting
        ([90.0, 87.0], -10.0, 10.0)
    """

    def __init__(self, rows: Sequence[Sequence[float]] = ()) -> None:
        self.rows: list[list[float]] = []
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Sequence[float]) -> None:
        """Adds the accuracies after one more task.

        Args:
            row: On every task so far, the newest last.

        Raises:
            ValueError: If there are too many or too few.
        """
        count = len(self.rows) + 1
        if len(row) != count:
            raise ValueError(f"after task {count} there are {count} tasks, got {len(row)} values")
        self.rows.append([float(value) for value in row])

    @property
    def average(self) -> list[float]:
        """Mean over the tasks so far, after each task."""
        return [sum(row) / len(row) for row in self.rows]

    @property
    def backward_transfer(self) -> float | None:
        """Mean of R[T][i] − R[i][i] over the tasks before the last; negative where something was forgotten."""
        return self._mean([self.rows[-1][i] - self.rows[i][i] for i in range(len(self.rows) - 1)])

    @property
    def forgetting(self) -> float | None:
        """Mean over the tasks before the last of the best accuracy before the end minus that at the end."""
        last = len(self.rows) - 1
        return self._mean([max(self.rows[t][i] for t in range(i, last)) - self.rows[last][i] for i in range(last)])

    @staticmethod
    def _mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    @property
    def first_and_last(self) -> tuple[float, float] | None:
        """Means at the end over the first and over the last five tasks; None for less than ten.

        The first says what is kept, the last what can still be learned.
        """
        if len(self.rows) < 2 * _ENDS:
            return None
        first, last = self.rows[-1][:_ENDS], self.rows[-1][-_ENDS:]
        return sum(first) / _ENDS, sum(last) / _ENDS

    def figures(self) -> dict[str, object]:
        """The entries of summary.json."""
        ends = self.first_and_last
        return {
            "matrix": self.rows,
            "average_accuracy": self.average,
            "backward_transfer": self.backward_transfer,
            "forgetting": self.forgetting,
            "first_five": None if ends is None else ends[0],
            "last_five": None if ends is None else ends[1],
        }
