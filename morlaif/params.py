"""Keyword parameters that YAML gives to a function, ours or the user's, checked against its signature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from morlaif.errors import UserError, suggest

Wanted = Mapping[str, tuple[Callable[..., Any], inspect.Parameter]]  # by name: whose it is, and the parameter
ANY_NAME = inspect.Parameter.VAR_KEYWORD  # takes all names that are left
BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wanted(function: Callable[..., Any], supplied: Collection[str] = (), *, first: int = 0) -> Wanted:
    """What YAML may set: all that can be given by name, but for what the caller itself supplies.

    Args:
        function: or a class, for what its objects are made of.
        supplied: names that the caller gives.
        first: how many parameters the caller gives by position.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, say: any name may be right
        parameters = [inspect.Parameter("any", ANY_NAME)]
    named = [p for place, p in enumerate(parameters) if p.kind in (*BY_NAME, ANY_NAME) and place >= first]
    return {p.name: (function, p) for p in named if p.name not in supplied}


def refuse_unknown(params: Mapping[str, Any], wanted: Wanted, *, key: str, path: str) -> None:
    """
    Raises:
        UserError: one of `params` is none of those that are wanted.
    """
    if any(parameter.kind is ANY_NAME for _, parameter in wanted.values()):
        return
    for param in params:
        if param not in wanted:
            known = ", ".join(wanted) or "none"
            raise UserError(f"{key}.{param}: '{path}' has no such parameter (it has: {known}).{suggest(param, wanted)}")


def checked(params: Mapping[str, Any], wanted: Wanted, *, key: str, path: str, name: str) -> dict[str, Any]:
    """`params` as the annotations of their parameters want them; one of a type that pydantic cannot check, as it is.

    Args:
        key: of the config that holds them, for messages.
        path: of the function, for messages.
        name: by which the config calls it, for messages.

    Raises:
        UserError: one is unknown, missing or of the wrong type.
    """
    refuse_unknown(params, wanted, key=key, path=path)
    for param, (_, parameter) in wanted.items():
        needed = parameter.kind is not ANY_NAME and parameter.default is inspect.Parameter.empty
        if needed and param not in params:
            raise UserError(f"{key}.{param} is missing: '{path}' needs it")
    kinds = {param: annotation(*wanted[param]) if param in wanted else Any for param in params}
    return {param: _checked(value, kinds[param], key, param, name) for param, value in params.items()}


def annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation as an object; Any where there is none or where it names what only a type checker imports."""
    kind = parameter.annotation
    if kind is inspect.Parameter.empty:
        return Any
    if isinstance(kind, str):
        try:
            written = vars(function).get("__init__", function) if isinstance(function, type) else function
            return eval(kind, getattr(inspect.unwrap(written), "__globals__", {}))
        except NameError:
            return Any
    return kind


def _checked(value: Any, kind: Any, key: str, param: str, name: str) -> Any:
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)  # as JSON: a list may be a tuple
    except PydanticSchemaGenerationError:  # a type of the user's that pydantic cannot check
        return value
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join([key, param, *map(str, first["loc"])])
        fault = first["msg"].removeprefix("Value error, ").replace("Input", "value", 1)
        raise UserError(f"{dotted} of '{name}': {fault}, got {first['input']!r}") from None
