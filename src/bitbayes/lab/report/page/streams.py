"""What the page shows of streams of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from bitbayes.lab.report.page import charts, heat
from bitbayes.lab.report.page.groups import Curve
from bitbayes.lab.report.page.parts import Chart, Section, Sign, Table
from bitbayes.lab.report.page.records import Stream
from bitbayes.lab.report.page.tables import curve_table, weights_table
from bitbayes.lab.report.tables import number

__all__ = ["matrix_table", "streams_section"]


def streams_section(recipe: str, streams: Sequence[Stream], of: str, points: int) -> Section:
    """The part of the page about the streams of one recipe.

    Args:
        recipe: Its name.
        streams: Finished or not.
        of: Prefix of the tags by which the page shows and hides them.
        points: Of a chart, see `charts.curve_chart`.

    Returns:
        Charts and tables.
    """
    shown: list[Chart] = []
    labels = [stream.name for stream in streams]
    means = [
        Curve(stream.name, index, [float(i + 1) for i in range(len(stream.matrix))], stream.matrix.average)
        for index, stream in enumerate(streams)
        if len(stream.matrix)
    ]
    if means:
        title = "Mean accuracy over the tasks so far"
        figure = charts.curve_chart(means, x="tasks learned", y="percent", of=of, points=points)
        table = curve_table(title, means, labels, True, 2)
        shown.append(Chart(title, "One line a stream.", figure, table))
    for stream in streams:
        shown += _stream(stream, points)
    heads = ["stream", "rule", "prior", "method", "state", "mean accuracy, %", "backward transfer", "forgetting"]
    rows = [_row(stream) for stream in streams]
    legend = [Sign(stream.name, f"{of}{index}", *charts.mark(index)) for index, stream in enumerate(streams)]
    about = "One task after another: what is left of the old ones."
    return Section(f"Streams of {recipe}", about, legend, shown, [Table.of("Streams", heads, rows)])


def _stream(stream: Stream, points: int) -> list[Chart]:
    """The charts of one stream; their lines are tasks."""
    found = []
    if len(stream.matrix):
        about = "Accuracy in percent on each task (across) after each task (down)."
        figure = heat.heat_map(stream)
        found.append(Chart(f"Accuracy matrix: {stream.name}", about, figure, matrix_table(stream)))
    if stream.curves:
        tasks = max(line["task"] for line in stream.curves)
        ways = []
        for task in range(1, tasks + 1):
            seen = [(at, line) for at, line in enumerate(stream.curves, 1) if line["task"] >= task]
            values = [line["accuracies"][task - 1] for _, line in seen]
            ways.append(Curve(f"task {task}", task - 1, [float(at) for at, _ in seen], values))
        title = f"On the way: {stream.name}"
        names = [way.run for way in ways]
        figure = charts.curve_chart(ways, x="epochs of all tasks", y="percent", points=points)
        table = curve_table(title, ways, names, True, 2)
        found.append(Chart(title, "Accuracy on every task, from where it began. One colour a task.", figure, table))
    if stream.weights:
        weights = [(f"after task {i + 1}", i, percent) for i, percent in enumerate(stream.weights)]
        title = f"Weight probabilities: {stream.name}"
        table = weights_table(title, [(name, percent) for name, _, percent in weights])
        about = "P[weight = +1] after every task, one colour a task; logarithmic axis."
        found.append(Chart(title, about, charts.histogram_chart(weights), table))
    return found


def matrix_table(stream: Stream) -> Table:
    """Accuracy on every task after every task.

    Args:
        stream: The stream.

    Returns:
        The table.
    """
    rows, average = stream.matrix.rows, stream.matrix.average
    lines = [
        [str(after), *(number(value, 1) for value in row), *[""] * (len(rows) - len(row)), number(mean)]
        for after, (row, mean) in enumerate(zip(rows, average, strict=True), 1)
    ]
    heads = ["after task", *(f"task {i + 1}" for i in range(len(rows))), "mean"]
    return Table(f"Accuracy in percent: {stream.name}", heads, lines)


def _row(stream: Stream) -> list[str]:
    """Name, rule, prior, method, state, mean accuracy, backward transfer, forgetting."""
    summary, matrix = stream.summary, stream.matrix
    decay = summary.get("decay")
    prior = "-" if not summary else "yes" if summary.get("prior") else "no"
    prior += f", decay {decay}" if prior == "yes" and decay != 1 else ""
    rule = f"{stream.config.rule}:{stream.config.estimator}" if stream.config.estimator else str(stream.config.rule)
    figures = (matrix.average[-1], matrix.backward_transfer, matrix.forgetting) if len(matrix) else (None,) * 3
    method = str(summary.get("method", "-"))
    return [stream.name, rule, prior, method, stream.status, *(number(figure) for figure in figures)]
