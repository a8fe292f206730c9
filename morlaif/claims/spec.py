"""A claim as a YAML file: its statement, the arms that test it, the number that is estimated, and the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from morlaif.claims.decide import Threshold
from morlaif.claims.estimators import Estimator, estimator
from morlaif.errors import UserError, suggest
from morlaif.files import read_text
from morlaif.keys import explain_values
from morlaif.presets import CLAIMS, places
from morlaif.settings import Line, Lines, Number, Params, Text

SUFFIX = ".yaml"
BETWEEN = " at "  # an arm's name and its value of what is swept


class _Part(BaseModel):
    """Closed as `Settings` are; a claim may leave out what it has no need of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(_Part):
    """Which number of a seed is tested."""

    name: Line  # of an estimator, or the dotted path of one
    params: Params = {}


class Test(_Part):
    """What is claimed of its mean over seeds."""

    kind: Literal["greater", "less", "equivalent"]
    than: Number | None = None  # greater or less
    to: Number | None = None  # equivalent
    margin: Annotated[Number, Field(gt=0)] | None = None  # within which two are alike in practice

    @model_validator(mode="after")
    def _complete(self) -> Test:
        wanted = {"equivalent": ("to", "margin")}.get(self.kind, ("than",))
        for key in ("than", "to", "margin"):
            if (getattr(self, key) is None) == (key in wanted):
                raise ValueError(f"kind {self.kind} takes {' and '.join(wanted)}, and nothing else")
        return self

    @property
    def threshold(self) -> Threshold:
        at = self.to if self.kind == "equivalent" else self.than
        return Threshold(self.kind, float(at or 0), float(self.margin or 0))


class Claim(_Part):
    """A file of sweeps/claims/, or of the user's."""

    statement: Text  # one sentence
    source: Text  # who claims it, and where
    paper: Text  # their own figure, in words
    note: Text | None = None  # what the test leaves out
    base: Lines = ()  # overrides of all arms
    arms: Annotated[dict[Line, Lines], Field(min_length=1)]  # overrides of each
    sweep: dict[Line, list[Number]] = {}  # one key with its values: each arm at each
    # Models that arms name as {<name>}: overrides of the run whose SFT model it is; null: the user's to give.
    models: dict[Line, Lines | None] = {}
    estimate: Estimate
    test: Test

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, Any]) -> dict[str, Any]:
        for name in arms:
            if BETWEEN in name:
                raise ValueError(f"'{name}': '{BETWEEN.strip()}' joins an arm and the value of what is swept")
        return arms

    @field_validator("sweep")
    @classmethod
    def _one_key(cls, sweep: dict[str, list[float]]) -> dict[str, list[float]]:
        if len(sweep) > 1:
            raise ValueError(f"one key can be swept, not {len(sweep)}; write further arms out")
        for key, values in sweep.items():
            if len(set(values)) < 2 or len(set(values)) < len(values):
                raise ValueError(f"{key}: needs two or more different values")
        return sweep

    @property
    def levels(self) -> list[float]:
        """Values of what is swept; none where nothing is."""
        return next(iter(self.sweep.values()), [])

    @property
    def every_arm(self) -> dict[str, tuple[str, ...]]:
        """The overrides of each arm, at each value of what is swept."""
        if not self.sweep:
            return {name: (*self.base, *own) for name, own in self.arms.items()}
        ((key, values),) = self.sweep.items()
        return {
            at_level(name, value): (*self.base, *own, f"{key}={value:g}")
            for value in values
            for name, own in self.arms.items()
        }


def at_level(arm: str, value: float) -> str:
    """What an arm is called at one value of what is swept."""
    return f"{arm}{BETWEEN}{value:g}"


@dataclass(frozen=True)
class Known:
    """A claim with its name."""

    name: str
    file: Path
    claim: Claim

    @cached_property
    def estimator(self) -> Estimator:
        """
        Raises:
            UserError: there is none of that name, or it takes other parameters or arms.
        """
        claim, where = self.claim, f"{self.file}: estimate"
        made = estimator(claim.estimate.name, claim.estimate.params, where)
        for arm in made.arms():
            if arm not in claim.arms:
                raise UserError(f"{where}: there is no arm '{arm}'.{suggest(arm, claim.arms)}")
        if made.of_levels and not claim.sweep:
            raise UserError(
                f"{where}: {claim.estimate.name} is over the values of a key: give sweep: {{<key>: [1, 2]}}"
            )
        return made


def read_claim(file: Path) -> Known:
    """
    Raises:
        UserError: a line for each thing that is wrong with the file.
    """
    try:
        tree = yaml.safe_load(read_text(file, "a claim"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{at}: no YAML: {getattr(error, 'problem', None) or 'it cannot be read'}") from None
    if not isinstance(tree, Mapping):
        raise UserError(f"{file}: should be keys and values: statement, source, paper, arms, estimate, test")
    try:
        known = Known(file.stem, file, Claim.model_validate(_estimate(tree)))
    except ValidationError as error:
        raise UserError("\n".join(f"{file}: {line}" for line in explain_values(error, tree, Claim))) from None
    known.estimator  # noqa: B018  # whatever is wrong with it is told now
    return known


def _estimate(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an estimate are written beside its name."""
    made: dict[str, Any] = {str(key): value for key, value in tree.items()}
    if isinstance(own := made.get("estimate"), Mapping) and "name" in own:
        params = {key: value for key, value in own.items() if key != "name"}
        made["estimate"] = {"name": own["name"], "params": params}
    return made


def claim_files(config_dir: str | None = None) -> dict[str, Path]:
    """The files of all claims by name: ours, those of installed packages, and of a folder of presets."""
    found: dict[str, Path] = {}
    for place in places(config_dir):
        for file in sorted((place / CLAIMS).glob(f"*{SUFFIX}")):
            found.setdefault(file.stem, file)
    return found


def find_claims(select: Sequence[str] | str, config_dir: str | None = None) -> list[Known]:
    """The claims of these names or files; "all": all that there are.

    Raises:
        UserError: there is none of a name, or a file is wrong.
    """
    files = claim_files(config_dir)
    chosen = list(files.values()) if select == "all" else [_file(name, files) for name in select]
    if twice := {file.stem for file in chosen if [one.stem for one in chosen].count(file.stem) > 1}:
        raise UserError(f"claims.select: two claims are called {', '.join(sorted(twice))}; rename a file")
    return [read_claim(file) for file in chosen]


def _file(name: str, files: Mapping[str, Path]) -> Path:
    if name in files:
        return files[name]
    path = Path(name).expanduser()
    if path.suffix == SUFFIX and path.is_file():
        return path
    known = ", ".join(files) or "none"
    raise UserError(f"claims.select: no claim '{name}', and no file.{suggest(name, files)} Known: {known}")
