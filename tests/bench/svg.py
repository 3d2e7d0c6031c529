"""Drawings as SVG: just what charts are made of."""

from dataclasses import dataclass, field
from html import escape

FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif"


@dataclass
class Drawing:
    """A drawing on a white card; lengths are in pixels, from its upper left corner."""

    width: float
    height: float
    _elements: list[str] = field(default_factory=list)

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour: str, *, round_by: float = 0
    ) -> None:
        """A filled rectangle."""
        self._add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' rx="{round_by:g}" fill="{colour}"/>'
        )

    def line(
        self, points: list[tuple[float, float]], colour: str, *, width: float = 1, dash: str = ""
    ) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._add(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            f' stroke-linejoin="round" stroke-linecap="round"{dashes}/>'
        )

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """A dot, with a rim that sets it off from lines."""
        self._add(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" stroke="#fff"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        colour: str = "#334155",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Words on a line; `anchor` says which end of them is at `x`: start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._add(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"'
            f' text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def markup(self) -> str:
        """The whole of it."""
        inside = "\n".join(self._elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}"'
            f' width="{self.width:g}" height="{self.height:g}" font-family="{FONT}">\n'
            f'<rect x="0.5" y="0.5" width="{self.width - 1:g}" height="{self.height - 1:g}" rx="8"'
            f' fill="#fff" stroke="#e2e8f0"/>\n{inside}\n</svg>\n'
        )

    def _add(self, element: str) -> None:
        self._elements.append(element)
