"""Colours and type of the figures, and how one drawing becomes a PNG for print and an SVG for a light or dark page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a figure. Blue and orange stay apart under every common colour blindness."""

    ink: str
    muted: str
    grid: str
    surface: str
    blue: str  # the policy; positive correlation
    orange: str  # the baseline; negative correlation
    green: str
    purple: str
    teal: str

    def of(self, arm: int) -> str:
        """The colour of the first, second, … arm; from the sixth on they come again."""
        return (self.blue, self.orange, self.green, self.purple, self.teal)[arm % 5]


# As printed on white. In the page's SVG each of these becomes a CSS variable, which follows light and dark.
PALETTE = Palette(
    "#1b1f24", "#59636e", "#d9dee3", "#ffffff", "#0b5cad", "#b84d08", "#1a7048", "#7b3fa0", "#0b7482",
)  # fmt: skip

# Of the series of a comparison; the page has lighter ones for its dark scheme (`--s0` … in its CSS).
SERIES = ("#0b5cad", "#b84d08", "#1a7048", "#7b3fa0", "#b02a6f", "#0b7482", "#7a5a12", "#59636e")


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for the figures made inside."""
    rc: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: selectable, in the page's own font
        "svg.hashsalt": "morlaif",  # equal figures give equal bytes
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "axes.labelsize": 8.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8.5,
        "text.color": PALETTE.ink,
        "axes.labelcolor": PALETTE.muted,
        "axes.edgecolor": PALETTE.grid,
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": PALETTE.grid,
        "grid.linewidth": 0.6,
        "xtick.color": PALETTE.grid,
        "ytick.color": PALETTE.grid,
        "xtick.labelcolor": PALETTE.muted,
        "ytick.labelcolor": PALETTE.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "figure.facecolor": "none",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(rc):
        yield


def save_png(figure: Figure, file: Path) -> None:
    """For papers: 300 dots an inch, on white."""
    figure.savefig(file, dpi=300, facecolor=PALETTE.surface, metadata={"Software": None})


def save(figure: Figure, file: Path, name: str, title: str) -> str:
    """Write `figure` as a PNG for papers, and return the page's <svg>, as `svg` makes it."""
    save_png(figure, file)
    figure.set_layout_engine("none")  # the layout is decided: deciding again takes as long as drawing
    return svg(figure, name, title)


def svg(figure: Figure, name: str, title: str) -> str:
    """An inline <svg> for the page: colours as CSS variables, identifiers of its own, no address anywhere.

    `title` is what a screen reader says instead of the drawing.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"font: [^;\"]*?(\d[\d.]*px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)  # the page's own
    text = re.sub(r"(-?\d+\.\d{3})\d+", r"\1", text)
    for colour, value in asdict(PALETTE).items():
        text = re.sub(re.escape(value), f"var(--{colour})", text, flags=re.IGNORECASE)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    box = f"0 0 {float(width):g} {float(height):g}"
    head = f'<svg class="figure" role="img" aria-label="{_attribute(title)}" viewBox="{box}">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :]).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def as_matrix(axes: Axes) -> None:
    """Columns named at the top, no grid and no frame: the cells are what is seen."""
    axes.xaxis.tick_top()
    axes.tick_params(pad=1)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
