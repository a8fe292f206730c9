"""Settings of one policy for all weights. The values and their sources are in `conf/ppo/` and `conf/dpo/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from morlaif.settings import (
    DISTINCT,
    NUMBER,
    GreedyTemperature,
    Line,
    Lines,
    Number,
    PathText,
    Positive,
    Seed,
    Settings,
    Text,
)

Kind = Literal["none", "text", "lora"]


class SteerSettings(Settings):
    """How a policy learns to take its weights, and from which distribution they are drawn while it does."""

    kind: Kind
    alpha: Positive  # of a symmetric Dirichlet distribution
    steps: Annotated[int, Field(ge=1, le=100), NUMBER]  # of a weight between 0 and 1
    principles: Annotated[Lines, Field(min_length=2), DISTINCT] | None  # null: all that count in the reward

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, value: object) -> object:
        """Without a kind nothing else says anything, so no digest is to cover it."""
        return {**vars(UNSTEERED)} if isinstance(value, dict) and value.get("kind") == "none" else value


UNSTEERED = SteerSettings.model_construct(kind="none", alpha=1.0, steps=10, principles=None)


class AnswerSettings(Settings):
    """What `morlaif steer` answers, and by which weights; `conf/steer/*.yaml` holds every default."""

    action: Literal["answer"] | None
    run: PathText | None  # name or folder of a finished run
    arm: Line | None  # whose policy; null: the one that takes weights
    weights: dict[Line, Number] | None  # of each principle, not given ones zero; null: the arm's own
    choices: PathText | None  # a file of a person's choices, which say the weights
    prior: Positive  # of the fit to them
    search: bool  # among the points of the run's front
    prompt: Text | None  # what a user says
    prompts: PathText | None  # a file of prompts, in place of one
    out: PathText | None  # where their answers go; null: they are printed
    page: PathText | None  # an HTML file of the answers at all weights of a grid
    policy: PathText | None  # a folder that is made, with the policy at the weights
    steps: Annotated[int, Field(ge=1, le=100), NUMBER]  # of that grid
    seed: Seed
    temperature: GreedyTemperature | None  # null: that of the run's evaluation

    @model_validator(mode="after")
    def _check(self) -> AnswerSettings:
        if self.action is not None and self.run is None:
            raise ValueError("run: null names no run; give one that trained a policy which takes weights: run=<run>")
        if self.prompt is not None and self.prompts is not None:
            raise ValueError("prompt: give one, or a file of them as prompts=<file.jsonl>; not both")
        silent = self.policy is not None or self.choices is not None or self.search
        if self.action is not None and self.prompt is None and self.prompts is None and not silent:
            raise ValueError("prompt: give one, or a file of them as prompts=<file.jsonl>")
        if self.page is not None and (self.prompt is None) == (self.prompts is None):
            raise ValueError("page: has the answers to a prompt, or to a file of them as prompts=<file.jsonl>")
        if self.page is not None and (self.out is not None or self.weights is not None or silent):
            raise ValueError(
                "page: shows all weights of a grid; give no weights, choices, search, out or policy with it"
            )
        if self.choices is not None and self.weights is not None:
            raise ValueError("choices: say the weights; give weights or choices, not both")
        if self.out is not None and self.prompts is None:
            raise ValueError("out: is where the answers to prompts=<file.jsonl> go; a single one is printed")
        return self
