"""The policies of a finished run that answer at weights: one that is told them, or a soup of a front's corners."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from morlaif.config import Config
from morlaif.data.records import Message
from morlaif.errors import Damaged, UserError, suggest
from morlaif.evaluation.fronts import CONDITIONED, GRID
from morlaif.evaluation.policies import respond
from morlaif.evaluation.settings import Answering
from morlaif.files import read_json_lines
from morlaif.hardware import HardwareSettings
from morlaif.models.place import policy_place
from morlaif.models.settings import ModelSettings
from morlaif.pipeline import compare
from morlaif.planning.front import PREFIX
from morlaif.stages.known import METHODS
from morlaif.steer.conditioning import FILE, Steering, read_steering, shares_of
from morlaif.steer.front import FrontSettings
from morlaif.steer.settings import AnswerSettings
from morlaif.steer.simplex import Point, grid, name_of
from morlaif.units.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SOUP = "soup"  # what steer.arm calls it, and a front its way
Score = Callable[[Sequence[list[Message]], Sequence[str]], list[tuple[float, ...]]]
REMEDY = "Train one: arms.select=[conditioned] or ppo.steer.kind=text; or policies that can be merged: front=lora"
Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]


@dataclass(frozen=True)
class Steerable(ABC):
    """What answers at weights, and how its run's evaluation has policies answer."""

    run: compare.RunFolder
    arm: str
    answering: Answering
    model: ModelSettings

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """What has a weight: principles, or a front's objectives, and the principles of each."""

    @property
    @abstractmethod
    def own(self) -> tuple[float, ...]:
        """(K,) shares at which it answers where nobody says others."""

    @property
    @abstractmethod
    def way(self) -> str | None:
        """Of the run's front, what measured this policy; None: nothing did."""

    @property
    @abstractmethod
    def normed_by(self) -> str:
        """The arm on whose frozen mean and deviation scores are given."""

    @abstractmethod
    def answers(
        self,
        prompts: Sequence[list[Message]],
        each: Sequence[Mapping[str, float]],
        seed: int,
        hardware: HardwareSettings,
    ) -> Iterator[list[str]]:
        """Its answers to the prompts at each of these weights, the noise the same."""

    @abstractmethod
    def leave(self, weights: Mapping[str, float], out: Path, hardware: HardwareSettings) -> None:
        """Write the policy at the weights into the folder `out`, an artifact as a method's unit is."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def keep(self, weights: Mapping[str, float], out: Path, hardware: HardwareSettings) -> None:
        """As `leave`, the whole folder or none of it."""
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
            made = Path(beside) / "made"
            made.mkdir()
            self.leave(weights, made, hardware)
            os.replace(made, out)

    def _load(self, folder: Path, hardware: HardwareSettings) -> Loaded:
        import torch

        from morlaif.models.load import load_policy

        return load_policy(folder, dtype=getattr(torch, hardware.dtype), device=hardware.device, base=self.model)

    def scorer(self, hardware: HardwareSettings) -> Score | None:
        """Scores by the run's preference models, on the frozen mean and deviation of SFT's answers, of an objective of
        several principles their mean; None where one of them is not there."""
        import torch

        from morlaif.models.load import source_of
        from morlaif.preference.bank import PreferenceBank
        from morlaif.scalarize.functions import linear
        from morlaif.scalarize.objective import Objective

        names = list(dict.fromkeys(name for own in self.parts.values() for name in own))
        pms = {name: self.run.folder_of(f"pm/{name}") for name in names}
        sft, weigh = self.run.folder_of("sft"), self.run.folder_of(f"weigh/{self.normed_by}")
        found = {name: folder for name, folder in pms.items() if folder is not None}
        if sft is None or weigh is None or len(found) < len(names):
            return None
        dtype = getattr(torch, hardware.dtype)
        bank = PreferenceBank.load(found, source_of(sft, self.model), hardware.device, dtype)
        objective = Objective.load(weigh / "weights.json", linear, names)
        columns = [[names.index(name) for name in own] for own in self.parts.values()]

        def score(prompts: Sequence[list[Message]], texts: Sequence[str]) -> list[tuple[float, ...]]:
            table = objective.standardize(bank.score(prompts, texts).float().cpu())
            means = torch.stack([table[:, own].mean(1) for own in columns], dim=1)
            return [tuple(round(value, 3) for value in row) for row in means.tolist()]

        return score


@dataclass(frozen=True)
class Told(Steerable):
    """One policy for all weights."""

    folder: Path
    steering: Steering

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {name: (name,) for name in self.steering.names}

    @property
    def own(self) -> tuple[float, ...]:
        return self.steering.own

    @property
    def way(self) -> str | None:
        return CONDITIONED if self.arm == PREFIX + CONDITIONED else None

    @property
    def normed_by(self) -> str:
        return self.arm

    def answers(
        self,
        prompts: Sequence[list[Message]],
        each: Sequence[Mapping[str, float]],
        seed: int,
        hardware: HardwareSettings,
    ) -> Iterator[list[str]]:
        model, tokenizer = self._load(self.folder, hardware)
        for one in each:
            told = [self.steering.told(messages, one) for messages in prompts]
            aimed = self.steering.at(model, one), tokenizer
            yield respond(partial(tuple, aimed), told, self.answering, seed=seed).texts

    def leave(self, weights: Mapping[str, float], out: Path, hardware: HardwareSettings) -> None:
        from morlaif.models.load import save_policy
        from morlaif.steer.parts import fold
        from morlaif.steer.soup import merge_policies

        shares = shares_of(weights, self.names)
        if self.steering.kind == "text":  # the same weights of the model, told others where nobody says any
            merge_policies([self.folder], [1.0], out)
            Steering("text", self.names, shares, self.steering.steps).write(out)
            return
        model, tokenizer = self._load(self.folder, hardware)
        fold(model, self.folder, [share - own for share, own in zip(shares, self.own, strict=True)])
        save_policy(model, tokenizer, out)


@dataclass(frozen=True)
class Soup(Steerable):
    """Merges of the policies that were trained for each objective of a front alone, as the run's front merges them."""

    corners: Mapping[str, Path]  # by objective
    front: FrontSettings

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return self.front.parts

    @property
    def own(self) -> tuple[float, ...]:
        return tuple(1 / len(self.corners) for _ in self.corners)

    @property
    def way(self) -> str | None:
        return SOUP

    @property
    def normed_by(self) -> str:
        return PREFIX + self.names[0]

    def answers(
        self,
        prompts: Sequence[list[Message]],
        each: Sequence[Mapping[str, float]],
        seed: int,
        hardware: HardwareSettings,
    ) -> Iterator[list[str]]:
        for one in each:
            with tempfile.TemporaryDirectory(prefix="morlaif-soup-") as place:
                self.leave(one, Path(place), hardware)
                loaded = self._load(Path(place), hardware)
            yield respond(partial(tuple, loaded), prompts, self.answering, seed=seed).texts

    def leave(self, weights: Mapping[str, float], out: Path, hardware: HardwareSettings) -> None:
        from morlaif.steer.soup import merge_by

        merge_by(self.front.soup, list(self.corners.values()), shares_of(weights, self.names), out)


@dataclass(frozen=True)
class Measured:
    """What a front has measured of a policy: how far each answer lies over SFT's to the same prompt."""

    points: list[Point]  # P of a grid, all of it
    values: list[list[tuple[float, ...]]]  # (P, N, K)


def measured(policy: Steerable, front: FrontSettings) -> Measured:
    """
    Raises:
        UserError: the run has no such front, or one of other objectives.
    """
    name = f"front/{policy.way}"
    folder = None if policy.way is None else policy.run.folder_of(name)
    if folder is None:
        raise UserError(
            f"steer.search: {policy.run.folder.name} has no front that measured {policy.arm}; "
            + (f"build it: stages=[front] front.ways=[{policy.way}]" if policy.way else "its run had none: front=lora")
        )
    if tuple(front.objectives) != policy.names:
        raise UserError(
            f"steer.search: the run's front is of {', '.join(front.objectives)}, and {policy.arm} takes "
            f"{', '.join(policy.names)}: they are to be the same"
        )
    points = grid(len(policy.names), front.steps)
    names = [name_of(point, policy.names) for point in points]
    values: list[list[tuple[float, ...]]] = [[] for _ in points]
    try:
        for _, row in read_json_lines(folder / GRID, "answers of a front", failure=Damaged):
            for own, name in zip(values, names, strict=True):
                place = row["points"][name]["place"]
                own.append(tuple(float(place[objective]) for objective in policy.names))
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{folder / GRID}: not as this version writes it: damaged, or of another version") from None
    return Measured(points, values)


def front_of(run: compare.RunFolder) -> FrontSettings | None:
    """The front of a run; None where it has none."""
    if not isinstance(made := run.config.get("front"), Mapping) or not made.get("objectives"):
        return None
    try:
        return FrontSettings.model_validate(made)
    except ValueError as error:
        raise Damaged(f"{run.folder / 'config.json'}: not as this version writes it: {error}") from None


def steerable(asked: AnswerSettings, config: Config) -> tuple[Steerable, str]:
    """The policy that is asked, and what else the run has that could have been, in words.

    Raises:
        UserError: there is no such run, or it has no such policy.
    """
    folders = compare.find([asked.run or ""], config.paths.runs, "steer.run")
    if len(folders) > 1:
        raise UserError(f"steer.run: '{asked.run}' matches {len(folders)} runs; one policy answers")
    run = compare.read(folders[0], Store(config.paths.store))
    if run is None or run.damaged:
        raise UserError(f"steer.run: {run.damaged if run else folders[0].name}")
    found = _Found(run)
    if asked.arm == SOUP and SOUP not in found.arms:
        if not found.corners:
            raise UserError(f"steer.arm: {_no_soup(found)}")
        arm = SOUP
    elif asked.arm is not None and asked.arm not in found.arms:
        known = [*found.arms, *([SOUP] if found.corners else [])]
        raise UserError(
            f"steer.arm: {run.folder.name} has no policy '{asked.arm}' in a store that can be reached; it has "
            f"{', '.join(known) or 'none'}.{suggest(asked.arm, known)}"
        )
    elif asked.arm is not None and asked.arm not in found.told:
        raise UserError(f"steer.arm: {asked.arm} takes no weights ({FILE} beside it). {REMEDY}")
    elif not found.told and not found.corners:
        raise UserError(
            f"steer.run: {run.folder.name} has no policy that takes weights ({FILE} beside it), and none for each "
            f"objective of a front alone; its arms are {', '.join(found.arms) or 'not built'}. {REMEDY}"
        )
    else:
        arm = asked.arm or next(iter(found.told), SOUP)
    try:
        answering = {name: run.config["eval"][name] for name in Answering.model_fields}
        if asked.temperature is not None:
            answering["temperature"] = asked.temperature
        common = run, arm, Answering(**answering), ModelSettings.model_validate(run.config["model"])
    except (KeyError, ValueError) as error:
        raise Damaged(f"{folders[0] / 'config.json'}: not as this version writes it: {error}") from None
    if arm in found.told:
        others = [*(name for name in found.told if name != arm), *([SOUP] if found.corners else [])]
        return Told(*common, *found.told[arm]), _others(others if asked.arm is None else [])
    assert found.front is not None  # it has corners
    return Soup(*common, found.corners, found.front), _others([*found.told] if asked.arm is None else [])


class _Found:
    """What a run has left that could be asked."""

    def __init__(self, run: compare.RunFolder) -> None:
        self.run, self.front = run, front_of(run)
        self.arms: dict[str, Path] = {}
        self.told: dict[str, tuple[Path, Steering]] = {}
        for name in run.units:
            method, _, arm = name.partition("/")
            folder = run.folder_of(name)
            if method in METHODS.known and arm and folder is not None:
                self.arms[arm] = folder
                if (steering := read_steering(folder)) is not None:
                    self.told[arm] = folder, steering

    @cached_property
    def corners(self) -> dict[str, Path]:
        """A policy for each objective of its front; empty where one is not there."""
        names = self.front.objectives if self.front is not None else ()
        found = {name: self.arms[PREFIX + name] for name in names if PREFIX + name in self.arms}
        models = {name: folder for name, folder in found.items() if policy_place(folder) is not None}
        return models if len(models) == len(names) else {}


def _no_soup(found: _Found) -> str:
    name, front = found.run.folder.name, found.front
    if front is None:
        return f"{name} had no front, so no policy for each objective alone; give it one: front=lora, or front=toy"
    missing = [one for one in front.objectives if PREFIX + one not in found.arms]
    where = (
        f"for {', '.join(missing)} alone in a store that can be reached" if missing else "whose weights can be merged"
    )
    return f"{name} has no policy {where}; the run's own command builds them, with front.ways=[soup]"


def _others(names: Sequence[str]) -> str:
    return f" (the run has {', '.join(names)}, too: arm={names[0]})" if names else ""
