"""Which number of one seed is tested: estimators, each an object made of a claim's parameters.

One of your own is a class that inherits `Estimator`, named in a claim by its dotted path; its `__init__` takes what the
claim gives beside the name, by keyword. It has no need of a change here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np

from morlaif.errors import Damaged, MachineError, UserError
from morlaif.files import read_json
from morlaif.params import checked, wanted
from morlaif.registry import Registry
from morlaif.statistics import Array, agreement

Two = tuple[str, str]  # arms
Parts = Mapping[str, float | Array]
Reading = Literal["both", "forward"]  # of a labeller's answers in two orders


@dataclass(frozen=True)
class Arm:
    """What one arm left at one seed."""

    policy: str  # what its run calls its first arm
    folders: Mapping[str, Path]  # its finished units by name: "evaluate", "pm/helpfulness"

    def read(self, file: str) -> Any:
        """A JSON file of a unit: `evaluate/results.json`, `pm/single/pm.json`.

        Raises:
            MachineError: the run has no such unit.
        """
        unit, _, name = file.rpartition("/")
        if unit not in self.folders:
            raise MachineError(f"the run has no unit '{unit}'; it has {', '.join(self.folders)}")
        if file not in self._known:
            self._known[file] = read_json(self.folders[unit] / name, failure=Damaged)
        return self._known[file]

    @cached_property
    def _known(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Seen:
    """All arms of a claim at one seed."""

    arms: Mapping[str, Arm]
    outcomes: Mapping[Two, Array] = field(default_factory=dict)  # (prompts,) of the first: win 1, tie ½, loss 0


class Estimator:
    """A number of one seed, or several: parts, all of which the claim is about.

    A number is a float, or an array (prompts,) whose mean it is, NaN where a prompt has none: the interval then covers
    the prompts too.
    """

    of_levels: ClassVar[bool] = False  # whether it is one number over all values of what the claim sweeps

    def arms(self) -> Sequence[str]:
        """The arms that it reads, as far as it is given their names."""
        return ()

    def contests(self) -> Sequence[Two]:
        """The arms whose policies are judged against one another, on the prompts that both have answered."""
        return ()

    def __call__(self, seen: Seen) -> Parts:
        """The parts by name; of one number alone the name is empty."""
        raise NotImplementedError

    def over_levels(self, values: Mapping[float, Parts]) -> Parts:
        """The parts of all levels, from those of each."""
        return {f"{part} {level:g}".strip(): value for level, own in values.items() for part, value in own.items()}


class WinRate(Estimator):
    """The policy of `first`, or of each of several arms, over that of `second`, by the judge of the runs."""

    def __init__(self, *, first: str | list[str], second: str) -> None:
        self.first = [first] if isinstance(first, str) else first
        self.second, self.alone = second, isinstance(first, str)

    def arms(self) -> Sequence[str]:
        return [*self.first, self.second]

    def contests(self) -> Sequence[Two]:
        return [(name, self.second) for name in self.first]

    def __call__(self, seen: Seen) -> Parts:
        return {"" if self.alone else name: seen.outcomes[name, self.second] for name in self.first}


class Number(Estimator):
    """A number in a JSON file of an arm, or its difference from another.

    `path` leads there by keys, or by the `name` of an entry of a list; `*` is the mean over all: `pm_accuracy.*.value`.
    `minus` holds arm, file and path of the other, each as of the first where it is left out. `{policy}` in a path is
    what the run calls its first arm.
    """

    def __init__(self, *, arm: str, file: str, path: str, minus: dict[str, str] | None = None) -> None:
        self.first = {"arm": arm, "file": file, "path": path}
        self.second = None if minus is None else {**self.first, **minus}
        if strange := [key for key in minus or () if key not in self.first]:
            raise UserError(f"minus: takes arm, file and path, not {', '.join(strange)}")

    def arms(self) -> Sequence[str]:
        return [own["arm"] for own in (self.first, self.second) if own is not None]

    def __call__(self, seen: Seen) -> Parts:
        value = self._value(seen, **self.first)
        return {"": value if self.second is None else value - self._value(seen, **self.second)}

    def _value(self, seen: Seen, arm: str, file: str, path: str) -> float:
        own = seen.arms[arm]
        where = path.replace("{policy}", own.policy)
        return number_at(own.read(file), where.split("."), f"{file} of the arm '{arm}': {where}")


def number_at(value: Any, path: Sequence[str], where: str) -> float:
    """
    Raises:
        UserError: nothing is there, or no number.
    """
    if not path:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: no number is there, but {type(value).__name__}")
        return float(value)
    key, *rest = path
    if isinstance(value, list):
        value = {str(one.get("name", k)) if isinstance(one, dict) else str(k): one for k, one in enumerate(value)}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: nothing lies below, at '{key}'")
    if key == "*":
        return fmean(number_at(one, rest, where) for one in value.values()) if value else math.nan
    if key not in value:
        raise UserError(f"{where}: there is no '{key}'. There is {', '.join(map(str, value)) or 'nothing'}")
    return number_at(value[key], rest, where)


class Slope(Estimator):
    """How much an estimate rises where what the claim sweeps doubles: least squares on log2 of its values."""

    of_levels = True

    def __init__(self, *, of: dict[str, Any]) -> None:
        own = dict(of)
        if not isinstance(name := own.pop("name", None), str):
            raise UserError("of: needs the name of the estimate whose slope it is")
        self.inner = estimator(name, own, "of")

    def arms(self) -> Sequence[str]:
        return self.inner.arms()

    def contests(self) -> Sequence[Two]:
        return self.inner.contests()

    def __call__(self, seen: Seen) -> Parts:
        return self.inner(seen)

    def over_levels(self, values: Mapping[float, Parts]) -> Parts:
        parts = next(iter(values.values()))
        return {part: slope([*values], [own[part] for own in values.values()]) for part in parts}


def slope(levels: Sequence[float], values: Sequence[float | Array]) -> Array:
    """Of least squares on log2 of positive levels; of arrays (prompts,), prompt by prompt."""
    x = np.log2(np.asarray(levels, dtype=float))
    x = x - x.mean()
    return np.asarray(x @ np.asarray(values, dtype=float) / (x @ x))


class AccuracyByCount(Estimator):
    """How much the objective's accuracy on held-out pairs rises where the number of principles doubles.

    `order`: `random`, means over random subsets, or `nested`, the listed order. `standard`: human, truth or label.
    """

    def __init__(self, *, arm: str, order: Literal["random", "nested"] = "random", standard: str = "human") -> None:
        self.arm, self.order, self.standard = arm, order, standard

    def arms(self) -> Sequence[str]:
        return [self.arm]

    def __call__(self, seen: Seen) -> Parts:
        rows = (seen.arms[self.arm].read("evaluate/details.json")["ablation"] or {}).get(self.order) or ()
        known = {row["count"]: row["accuracy"].get(self.standard, {}).get("value") for row in rows}
        if len(known) < 2 or None in known.values():
            raise UserError(f"ablation.{self.order} of the arm '{self.arm}' has no accuracy by '{self.standard}'")
        return {"": float(slope(list(known), list(known.values())))}


class LabelAgreement(Estimator):
    """How much more often a labeller agrees with humans by one reading of its answers than by another, on the training
    pairs: by the log-odds of `both` orders of presentation together, or of the `forward` order alone.
    """

    def __init__(self, *, arm: str, model: str, reading: Reading, minus: Reading) -> None:
        self.arm, self.model, self.reading, self.minus = arm, model, reading, minus

    def arms(self) -> Sequence[str]:
        return [self.arm]

    def __call__(self, seen: Seen) -> Parts:
        from morlaif.data.records import load_pairs
        from morlaif.feedback.records import load_verdicts

        own = seen.arms[self.arm].folders
        human = {pair.id: pair.human for pair in load_pairs(own["respond"], "train")}
        verdicts = [
            v for v in load_verdicts(own[f"feedback/{self.model}"], "train") if v.valid and v.p_first is not None
        ]
        standard = np.array([np.nan if (h := human.get(v.pair_id)) is None else h - 0.5 for v in verdicts])
        if np.isnan(standard).all():
            raise UserError(f"the pairs of the arm '{self.arm}' have no human labels: give it respond=pairs")
        forward, backward = (
            np.array([np.nan if (d := getattr(v, name)) is None else d for v in verdicts], dtype=float)
            for name in ("d_forward", "d_backward")
        )
        if np.isnan(forward).all():
            raise UserError(f"the labeller of the arm '{self.arm}' is not asked in orders of presentation")
        gaps = {"both": forward - backward, "forward": forward}
        first, second = (float(np.nanmean(agreement(gaps[name], standard))) for name in (self.reading, self.minus))
        return {"": first - second}


ESTIMATORS: Registry[type[Estimator]] = Registry(
    "claim_estimator",
    "name",
    "morlaif.claims.estimators",
    {
        name: f"morlaif.claims.estimators.{kind.__name__}"
        for name, kind in {
            "win_rate": WinRate,
            "number": Number,
            "slope": Slope,
            "accuracy_by_count": AccuracyByCount,
            "label_agreement": LabelAgreement,
        }.items()
    },
)


def estimator(name: str, params: Mapping[str, Any], where: str) -> Estimator:
    """
    Raises:
        UserError: there is none of that name, or it takes other parameters.
    """
    try:
        kind = ESTIMATORS.find(name)
        if not (isinstance(kind, type) and issubclass(kind, Estimator)):
            raise UserError(f"name '{name}': expected a class that inherits {Estimator.__module__}.Estimator")
        given = checked(params, wanted(kind), key="", path=ESTIMATORS.path(name), name=name)
        return kind(**given)
    except UserError as error:
        raise UserError(f"{where}.{str(error).lstrip('.')}") from None
