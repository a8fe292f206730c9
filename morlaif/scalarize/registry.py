"""Finding a scalarizer by its dotted path and checking its parameters, without importing torch.

A scalarizer of your own is any importable function `(rewards, *, keyword parameters) -> Tensor`; point a YAML file of
the group `scalarizer` at it. Its annotations are checked as those of the built-in ones are; it needs no decorator.

One that learns from the scores it has seen is a function of them and of a `state`, with two companions that stay pure:

    @stateful(start=start, update=update)
    def mine(rewards, *, gain: float, state): ...    # (B, K) -> (B,), reads the state
    def start(*, first: float): ...                  # the state before anything was seen
    def update(rewards, *, rate: float, state): ...  # the state once `rewards` (B, K) were seen too

A state is a dictionary of numbers, texts, lists and dictionaries, so that it is checkpointed and read as JSON. The
parameters in YAML are those of all three; each gets the ones that its signature has.

One with a parameter `sft_scores` gets the scores (N, K) of the SFT policy's responses, in the unit of `rewards`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NewType

from morlaif.dotted import find
from morlaif.errors import UserError, suggest
from morlaif.params import BY_NAME, Wanted, annotation, checked
from morlaif.scalarize.settings import ScalarizerSettings

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, Any]  # JSON: numbers, texts, lists, dictionaries
PrincipleName = NewType("PrincipleName", str)  # a parameter that must name a principle of the run
CONTEXT = ("names", "weights", "state", "sft_scores")  # parameters that the objective supplies
GRID = 199  # scores of an SFT policy that nobody gave
HOME = "morlaif.scalarize.functions"


@dataclass(frozen=True)
class Properties:
    """What a scalarizer promises, at the parameters in its YAML file. `None`: not declared."""

    monotone: bool | None  # raising a score never lowers the value
    symmetric: bool | None  # the order of principles (with their weights) does not matter
    homogeneous: bool | None  # f(c r) = c f(r) for c > 0
    bounds: Literal["none", "between", "below", "unit", "nonpositive", "nonnegative"] | None
    # between: min r ≤ f ≤ max r; below: f ≤ max r; unit: 0 ≤ f ≤ 1


UNDECLARED = Properties(None, None, None, None)


def properties(**declared: Any) -> Callable[..., Any]:
    """Decorator that attaches `Properties` to a scalarizer."""

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        function.properties = Properties(**declared)  # type: ignore[attr-defined]
        return function

    return attach


def stateful(*, start: Callable[..., State], update: Callable[..., State]) -> Callable[..., Any]:
    """Decorator that gives a scalarizer its companions (see the top of this file)."""

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        function.start, function.update = start, update  # type: ignore[attr-defined]
        return function

    return attach


@dataclass(frozen=True)
class Scalarizer:
    """A checked function with its parameters, ready to call."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Any]

    @property
    def properties(self) -> Properties:
        return getattr(self.function, "properties", UNDECLARED)

    @property
    def stateful(self) -> bool:
        return hasattr(self.function, "start")

    @property
    def reads_sft_scores(self) -> bool:
        """Whether it needs the scores of the SFT policy's responses."""
        return "sft_scores" in context_of(self.function)

    def __call__(
        self,
        rewards: Tensor,
        names: Sequence[str] | None = None,
        weights: Tensor | None = None,
        state: State | None = None,
        sft_scores: Tensor | None = None,
    ) -> Tensor:
        """(B, K) -> (B,). `names`, `weights` (K,) and `sft_scores` (N, K) are needed by those alone that read them.

        Without `state` a stateful one is as it was at the start; without `sft_scores` the SFT policy's scores are taken
        for normal with deviation 1, which is what normalising on them comes to about.
        """
        state = self.start(names) if state is None and self.stateful else state
        return self._call(self.function, rewards, names=names, weights=weights, state=state, sft_scores=sft_scores)

    def start(self, names: Sequence[str] | None) -> State:
        """The state before any score was seen; empty for a function that keeps none."""
        start = getattr(self.function, "start", None)
        return {} if start is None else self._plain(self._call(start, names=names))

    def update(
        self, rewards: Tensor, names: Sequence[str], weights: Tensor, state: State, sft_scores: Tensor | None = None
    ) -> State:
        """The state once the weighted scores `rewards` (B, K) were seen; the one given stays as it is."""
        update = getattr(self.function, "update", None)
        if update is None:
            return state
        return self._plain(
            self._call(update, rewards, names=names, weights=weights, state=state, sft_scores=sft_scores)
        )

    def check(self, names: Sequence[str]) -> None:
        """Every parameter that names a principle names one of `names`, and the start state can be made."""
        types = {key: annotation(*where) for key, where in _parameters(self.function).items()}
        for key, value in self.params.items():
            if "PrincipleName" not in repr(types[key]) or value is None:
                continue
            for name in [value] if isinstance(value, str) else value:
                if name not in names:
                    raise UserError(
                        f"scalarizer.params.{key} of '{self.name}' names '{name}', which is not among the principles "
                        f"that count ({', '.join(names)}).{suggest(name, names)}"
                    )
        self.start(names)

    def _call(self, function: Callable[..., Any], *rewards: Tensor, **context: Any) -> Any:
        """`function` with those of the parameters and of the context that its signature has."""
        wanted = _keywords(function)
        if "weights" in wanted and context.get("weights") is None:
            context["weights"] = rewards[0].new_ones(rewards[0].shape[-1])
        if "names" in wanted:
            if context["names"] is None:
                raise UserError(f"scalarizer '{self.name}' reads the principles' names: call it through an Objective")
            context["names"] = tuple(context["names"])
        if "sft_scores" in wanted and context.get("sft_scores") is None:
            context["sft_scores"] = _normal(rewards[0])
        given = {**self.params, **context}
        return function(*rewards, **{key: given[key] for key in wanted if key in given})

    def _plain(self, state: State) -> State:
        """`state`, once it is known to survive a checkpoint."""
        try:
            if isinstance(state, dict):
                json.dumps(state, allow_nan=False)
                return state
        except (TypeError, ValueError) as error:
            raise UserError(f"the state of scalarizer '{self.name}' is no JSON of finite numbers: {error}") from None
        raise UserError(f"the state of scalarizer '{self.name}' is a {type(state).__name__}; it must be a dictionary")


def resolve(settings: ScalarizerSettings, names: Sequence[str] | None = None) -> Scalarizer:
    """The scalarizer that `settings` describe, its parameters checked against the signatures of its functions.

    With `names`, the principles that count, also what `Scalarizer.check` checks. Raises `UserError`.
    """
    function = find(settings.function, "scalarizer.function", HOME, "linear")
    _check_signature(function, settings.function)
    params = checked(
        settings.params, _parameters(function), key="scalarizer.params", path=settings.function, name=settings.name
    )
    scalarizer = Scalarizer(settings.name, function, params)
    if names is not None:
        scalarizer.check(names)
    return scalarizer


def _normal(like: Tensor) -> Tensor:
    """(N, K) quantiles of a standard normal, the same in each column."""
    import torch

    shares = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    return torch.special.ndtri(shares).to(like)[:, None].expand(-1, like.shape[-1])


def _parts(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The function and, if it has them, its companions."""
    return [function, *(getattr(function, name) for name in ("start", "update") if hasattr(function, name))]


@cache
def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of one function that are given by name: all but the rewards, which come first."""
    parameters = inspect.signature(function).parameters.items()
    first = next(iter(parameters), (None, None))[0]
    return {key: p for key, p in parameters if key != first or p.kind is inspect.Parameter.KEYWORD_ONLY}


def context_of(function: Callable[..., Any]) -> set[str]:
    """Of what the objective supplies, what the function or a companion reads."""
    return {key for part in _parts(function) for key in _keywords(part) if key in CONTEXT}


def _parameters(function: Callable[..., Any]) -> Wanted:
    """What YAML may set: the keywords of the function and its companions, each with the function that has it."""
    found: dict[str, tuple[Callable[..., Any], inspect.Parameter]] = {}
    for part in reversed(_parts(function)):
        found |= {key: (part, parameter) for key, parameter in _keywords(part).items() if key not in CONTEXT}
    return found


def _check_signature(function: Callable[..., Any], path: str) -> None:
    where = f"scalarizer.function '{path}'"
    start = getattr(function, "start", None)
    for part in _parts(function):
        parameters = list(inspect.signature(part).parameters.values())
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if part is not start and (not parameters or parameters[0].kind not in positional):
            raise UserError(f"{where}: the first parameter of '{part.__name__}' must take the rewards (B, K)")
        for parameter in parameters if part is start else parameters[1:]:
            if parameter.kind not in BY_NAME or (
                part is start and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            ):
                raise UserError(f"{where}: parameter '{parameter.name}' of '{part.__name__}' cannot be given by name")
    if "state" in _keywords(function) and start is None:
        raise UserError(f"{where}: it reads a state; decorate it with morlaif.scalarize.registry.stateful")
