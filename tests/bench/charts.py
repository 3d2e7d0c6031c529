"""Charts of two kinds: bars that are compared, and lines over a growing load or size."""

from collections.abc import Sequence
from dataclasses import dataclass

from .axis import Axis, decades, factors, linear_axis, short
from .figures import Spread
from .svg import Drawing

WIDTH = 900.0
MARGIN = 28.0
INK, FAINT, GRID = "#0f172a", "#64748b", "#e2e8f0"

BAR_HEIGHT, BAR_STEP = 15.0, 24.0
LABELS_WIDTH, VALUES_WIDTH = 250.0, 78.0

PLOT_HEIGHT = 220.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar as long as the median, with a whisker for the spread."""

    label: str
    value: Spread
    colour: str


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars on one axis."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; in the legend only if it has a label."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    dash: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines in one plot.

    Attributes:
        x_unit: put behind each value on the x axis, which is logarithmic.
        logarithmic: whether the y axis is, too.
    """

    title: str
    x_unit: str
    lines: Sequence[Line]
    logarithmic: bool = False


def bar_chart(title: str, subtitle: str, panels: Sequence[Bars]) -> str:
    """Panels of bars below one another, as SVG."""
    height = 72 + sum(34 + len(panel.bars) * BAR_STEP + 10 for panel in panels)
    drawing = Drawing(WIDTH, height)
    _title(drawing, title, subtitle)
    y = 84.0
    for panel in panels:
        y = _bars(drawing, panel, y) + 10
    return drawing.markup()


def line_chart(title: str, subtitle: str, panels: Sequence[Lines]) -> str:
    """Plots side by side, as SVG."""
    legends = [[line for line in panel.lines if line.label] for panel in panels]
    rows = max(map(len, legends))
    drawing = Drawing(WIDTH, 84 + 26 + PLOT_HEIGHT + 40 + rows * 18)
    _title(drawing, title, subtitle)
    width = (WIDTH - 2 * MARGIN - 36 * (len(panels) - 1)) / len(panels)
    for number, panel in enumerate(panels):
        _plot(drawing, panel, MARGIN + number * (width + 36), 84.0, width)
    return drawing.markup()


def _title(drawing: Drawing, title: str, subtitle: str) -> None:
    drawing.text(MARGIN, 36, title, size=18, colour=INK, bold=True)
    drawing.text(MARGIN, 56, subtitle, colour=FAINT)


def _bars(drawing: Drawing, panel: Bars, y: float) -> float:
    """Draw a panel from `y` on, and return where it ends."""
    axis = linear_axis([bar.value.most for bar in panel.bars])
    left, width = MARGIN + LABELS_WIDTH, WIDTH - 2 * MARGIN - LABELS_WIDTH - VALUES_WIDTH
    bottom = y + 12 + len(panel.bars) * BAR_STEP
    drawing.text(MARGIN, y, panel.title, size=13, colour=INK, bold=True)
    for tick in axis.ticks:
        x = left + axis.place(tick) * width
        drawing.line([(x, y + 6), (x, bottom)], GRID)
        drawing.text(x, y, short(tick), size=10, colour=FAINT, anchor="middle")
    for number, bar in enumerate(panel.bars):
        top = y + 12 + number * BAR_STEP
        middle = top + BAR_HEIGHT / 2
        drawing.text(left - 10, middle + 4, bar.label, anchor="end")
        length = axis.place(bar.value.median) * width
        drawing.rectangle(left, top, max(length, 1.0), BAR_HEIGHT, bar.colour, round_by=2)
        ends = [left + axis.place(end) * width for end in (bar.value.least, bar.value.most)]
        drawing.line([(end, middle) for end in ends], INK)
        for end in ends:
            drawing.line([(end, middle - 3), (end, middle + 3)], INK)
        drawing.text(ends[1] + 8, middle + 4, f"{bar.value.median:,.0f}", colour=INK, bold=True)
    return bottom + 12


def _plot(drawing: Drawing, panel: Lines, x: float, y: float, width: float) -> None:
    points = [point for line in panel.lines for point in line.points]
    across = factors([point[0] for point in points])
    up = (decades if panel.logarithmic else linear_axis)([point[1] for point in points])
    left, right, top, bottom = x + 40, x + width - 10, y + 20, y + 20 + PLOT_HEIGHT
    drawing.text(x, y, panel.title, size=13, colour=INK, bold=True)
    _grid(drawing, up, (left, right, top, bottom))
    for tick in across.ticks:
        at = left + across.place(tick) * (right - left)
        drawing.line([(at, bottom), (at, bottom + 4)], FAINT)
        words = f"{short(tick)}{panel.x_unit}"
        drawing.text(at, bottom + 18, words, size=11, colour=FAINT, anchor="middle")
    legend = bottom + 42
    for line in panel.lines:
        placed = [
            (left + across.place(a) * (right - left), bottom - up.place(b) * (bottom - top))
            for a, b in line.points
        ]
        drawing.line(placed, line.colour, width=2, dash=line.dash)
        for place in placed:
            drawing.dot(*place, 3.5, line.colour)
        if line.label:
            drawing.line(
                [(left, legend - 4), (left + 22, legend - 4)], line.colour, width=2, dash=line.dash
            )
            drawing.text(left + 30, legend, line.label, size=11)
            legend += 18


def _grid(drawing: Drawing, up: Axis, box: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = box
    for tick in up.ticks:
        at = bottom - up.place(tick) * (bottom - top)
        drawing.line([(left, at), (right, at)], GRID)
        drawing.text(left - 6, at + 4, short(tick), size=10, colour=FAINT, anchor="end")
