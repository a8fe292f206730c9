"""A page with a slider for each principle: what a policy answers over a grid of weights, made before, shown offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources

from morlaif.data.records import Message
from morlaif.pages import environment
from morlaif.steer.simplex import Point


@dataclass(frozen=True)
class Cell:
    """What the policy answers to one prompt at one point of the grid."""

    text: str
    scores: tuple[float, ...] | None  # (K,) of each principle, on SFT's mean and deviation; None: not scored


@dataclass(frozen=True)
class GridPage:
    """All that a page shows."""

    title: str
    names: tuple[str, ...]  # the K principles
    steps: int  # of a weight between 0 and 1
    start: Point  # that is shown first
    prompts: Sequence[Sequence[Message]]
    answers: Mapping[Point, Sequence[Cell]]  # of every point of the grid: a cell for each prompt

    def render(self) -> str:
        """One HTML file, which fetches nothing."""
        here = resources.files("morlaif.steer")
        cells = {",".join(map(str, point)): [asdict(cell) for cell in row] for point, row in self.answers.items()}
        data = {"names": self.names, "steps": self.steps, "start": self.start, "prompts": self.prompts, "cells": cells}
        css, js = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        return environment("morlaif.steer").get_template("page.html.j2").render(
            css=css, js=js, data=data, title=self.title, names=self.names, steps=self.steps
        )  # fmt: skip
