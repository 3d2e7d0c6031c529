"""The plots of a run's results."""

from pathlib import Path

from .charts import Bar, Bars, Line, Lines, bar_chart, line_chart
from .results import Comparison, Mixed, Results, Scale
from .summary import cpu_us, in_words, rates

COLOURS = ("#4f46e5", "#0d9488", "#d97706", "#be185d")
LIMIT, OTHER, OURS, RELAXED = "#94a3b8", "#f59e0b", "#4f46e5", "#a5b4fc"


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Draw what has been measured, and return the files."""
    drawn = {}
    if results.comparison is not None:
        drawn["comparison.svg"] = comparison_plot(results.comparison)
    if results.mixed is not None and results.mixed.farms:
        drawn["mixed.svg"] = mixed_plot(results.mixed)
    if results.scale is not None:
        drawn["scale.svg"] = scale_plot(results.scale)
    for name, markup in drawn.items():
        (folder / name).write_text(markup)
    return [folder / name for name in drawn]


def comparison_plot(comparison: Comparison) -> str:
    """The rates of everybody, a panel for each case."""
    names = dict.fromkeys(case.case for case in comparison.cases)
    panels = [
        Bars(
            name[0].upper() + name[1:],
            [
                Bar(case.contestant, rates(case), _colour(case.contestant))
                for case in comparison.cases
                if case.case == name
            ],
        )
        for name in names
    ]
    return bar_chart(
        "Answers per second, 10 KiB artifacts, 32 connections",
        f"median, slowest and fastest of {comparison.rounds} turns; {in_words(comparison.machine)}",
        panels,
    )


def mixed_plot(mixed: Mixed) -> str:
    """What is achieved of what is asked for, and how long it takes."""
    offered = sorted({(step.factor, step.offered) for farm in mixed.farms for step in farm.steps})
    achieved = [Line("asked for", LIMIT, offered, "6 4")]
    latencies = []
    for farm, colour in zip(mixed.farms, COLOURS, strict=False):
        achieved.append(Line(farm.contestant, colour, [(s.factor, s.achieved) for s in farm.steps]))
        for percent, dash in (("p50", ""), ("p95", "6 4"), ("p99", "2 4")):
            points = [
                (step.factor, float(getattr(step.operations["all"], f"{percent}_ms")))
                for step in farm.steps
                if "all" in step.operations
            ]
            latencies.append(Line(f"{percent}, {farm.contestant}", colour, points, dash))
    return line_chart(
        "A build farm, and more of them",
        f"open loop: latency counts from when an operation was due; {in_words(mixed.machine)}",
        [
            Lines("operations per second", "x", achieved),
            Lines("latency, ms", "x", latencies, logarithmic=True),
        ],
    )


def scale_plot(scale: Scale) -> str:
    """What an operation costs, and a start takes, with more and more stored."""
    costs = [
        Line(
            name,
            colour,
            [
                (size.stored, cpu_us(case).median)
                for size in scale.sizes
                for case in size.cases
                if case.case == name
            ],
        )
        for name, colour in zip(
            dict.fromkeys(case.case for size in scale.sizes for case in size.cases),
            COLOURS,
            strict=False,
        )
    ]
    starts = [(size.stored, size.start_seconds.median) for size in scale.sizes]
    memory = [(size.stored, size.resident_bytes[1] / 2**20) for size in scale.sizes]
    return line_chart(
        "The same, with more and more stored",
        f"artifacts, and as many entries; {in_words(scale.machine)}",
        [
            Lines("CPU time for one request, µs", "", costs, logarithmic=True),
            Lines("start, s", "", [Line("from start to the first 200", COLOURS[0], starts)]),
            Lines("memory, MiB", "", [Line("of the service's process", COLOURS[0], memory)]),
        ],
    )


def _colour(contestant: str) -> str:
    if contestant.startswith("nginx"):
        return LIMIT
    if contestant.startswith("turborepo"):
        return OTHER
    return RELAXED if contestant.endswith("relaxed") else OURS
