"""Finding a scalarizer by its dotted path and checking its parameters, without importing torch.

A scalarizer of your own is any importable function `(rewards, *, keyword parameters) -> Tensor`; point a YAML file of
the group `scalarizer` at it. Its annotations are checked as those of the built-in ones are; it needs no decorator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NewType

from pydantic import ConfigDict, ValidationError, create_model

from morlaif.dotted import find
from morlaif.errors import UserError, suggest
from morlaif.scalarize.settings import ScalarizerSettings

if TYPE_CHECKING:
    from torch import Tensor

PrincipleName = NewType("PrincipleName", str)  # a parameter that must name a principle of the run
CONTEXT = ("names", "weights")  # parameters that the objective supplies
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


def properties(**declared: Any) -> Callable:
    """Decorator that attaches `Properties` to a scalarizer."""

    def attach(function: Callable) -> Callable:
        function.properties = Properties(**declared)  # type: ignore[attr-defined]
        return function

    return attach


@dataclass(frozen=True)
class Scalarizer:
    """A checked function with its parameters, ready to call."""

    name: str
    function: Callable
    params: Mapping[str, Any]
    context: tuple[str, ...]  # which of CONTEXT the function asks for

    @property
    def properties(self) -> Properties:
        return getattr(self.function, "properties", UNDECLARED)

    def __call__(self, rewards: Tensor, names: Sequence[str] | None = None, weights: Tensor | None = None) -> Tensor:
        """(B, K) -> (B,). `names` and `weights` (K,) are needed by those functions alone that read them."""
        if "weights" in self.context and weights is None:
            weights = rewards.new_ones(rewards.shape[-1])
        if "names" in self.context and names is None:
            raise UserError(f"scalarizer '{self.name}' reads the principles' names: call it through an Objective")
        supplied = {"names": names and tuple(names), "weights": weights}
        return self.function(rewards, **self.params, **{key: supplied[key] for key in self.context})


def resolve(settings: ScalarizerSettings, names: Sequence[str] | None = None) -> Scalarizer:
    """The scalarizer that `settings` describe, its parameters checked against the function's signature.

    With `names`, also checks that every parameter that names a principle names one of them. Raises `UserError`.
    """
    function = find(settings.function, "scalarizer.function", HOME, "linear")
    signature = inspect.signature(function)
    keywords = _keywords(signature, settings.function)
    context = tuple(key for key in CONTEXT if key in keywords)
    own = {key: parameter for key, parameter in keywords.items() if key not in CONTEXT}
    _check_names(settings, own)
    types = {key: _annotation(function, parameter) for key, parameter in own.items()}
    params = _check_values(settings, own, types)
    if names is not None:
        for key, value in params.items():
            _check_principles(settings, key, value, types[key], names)
    return Scalarizer(settings.name, function, params, context)


def _keywords(signature: inspect.Signature, path: str) -> dict[str, inspect.Parameter]:
    """All parameters but the first, which takes the rewards."""
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise UserError(f"scalarizer.function '{path}': its first parameter must take the rewards (B, K) by position")
    for parameter in parameters[1:]:
        if parameter.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            raise UserError(f"scalarizer.function '{path}': parameter '{parameter.name}' cannot be given by name")
    return {parameter.name: parameter for parameter in parameters[1:]}


def _check_names(settings: ScalarizerSettings, own: Mapping[str, inspect.Parameter]) -> None:
    for key in settings.params:
        if key not in own:
            known = ", ".join(own) or "none"
            raise UserError(
                f"scalarizer.params.{key}: '{settings.function}' has no such parameter (it has: {known})."
                + suggest(key, own)
            )
    for key, parameter in own.items():
        if parameter.default is inspect.Parameter.empty and key not in settings.params:
            raise UserError(f"scalarizer.params.{key} is missing: '{settings.function}' needs it")


def _annotation(function: Callable, parameter: inspect.Parameter) -> Any:
    """The annotation as an object; Any where there is none or where it names what only a type checker imports."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, str):
        try:
            return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
        except NameError:
            return Any
    return annotation


def _check_values(
    settings: ScalarizerSettings, own: Mapping[str, inspect.Parameter], types: Mapping[str, Any]
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        # positional keys keep any parameter name legal for pydantic
        f"p{i}": (types[key], ...)
        for i, key in enumerate(own)
        if key in settings.params
    }
    keys = list(own)
    model = create_model("Params", __config__=ConfigDict(strict=True, arbitrary_types_allowed=True), **fields)
    try:
        checked = model(**{field: settings.params[keys[int(field[1:])]] for field in fields})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([keys[int(str(first["loc"][0])[1:])], *map(str, first["loc"][1:])])
        message = f"{first['msg']}, got {first['input']!r}".replace("Input", "value", 1)
        raise UserError(f"scalarizer.params.{key} of '{settings.name}': {message}") from None
    return {keys[int(field[1:])]: getattr(checked, field) for field in fields}


def _check_principles(settings: ScalarizerSettings, key: str, value: Any, kind: Any, names: Sequence[str]) -> None:
    if "PrincipleName" not in repr(kind) or value is None:
        return
    for name in [value] if isinstance(value, str) else value:
        if name not in names:
            raise UserError(
                f"scalarizer.params.{key} of '{settings.name}' names '{name}', which is not among the principles "
                f"({', '.join(names)}).{suggest(name, names)}"
            )
