"""Keyword parameters that YAML gives to a function, ours or the user's, checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from morlaif.errors import UserError, suggest

Wanted = Mapping[str, tuple[Callable, inspect.Parameter]]  # by name: the function that has it, and the parameter
BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wanted(function: Callable, supplied: Collection[str] = ()) -> Wanted:
    """What YAML may set: all that can be given by name, but for what the caller itself supplies."""
    parameters = inspect.signature(function).parameters
    return {n: (function, p) for n, p in parameters.items() if p.kind in BY_NAME and n not in supplied}


def checked(params: Mapping[str, Any], wanted: Wanted, *, key: str, path: str, name: str) -> dict[str, Any]:
    """`params` as the annotations of their parameters want them; one of a type that pydantic cannot check, as it is.

    Args:
        key: of the config that holds them, for messages.
        path: of the function, for messages.
        name: by which the config calls it, for messages.

    Raises:
        UserError: one is unknown, missing or of the wrong type.
    """
    for param in params:
        if param not in wanted:
            known = ", ".join(wanted) or "none"
            raise UserError(f"{key}.{param}: '{path}' has no such parameter (it has: {known}).{suggest(param, wanted)}")
    for param, (_, parameter) in wanted.items():
        if parameter.default is inspect.Parameter.empty and param not in params:
            raise UserError(f"{key}.{param} is missing: '{path}' needs it")
    return {param: _checked(value, annotation(*wanted[param]), key, param, name) for param, value in params.items()}


def annotation(function: Callable, parameter: inspect.Parameter) -> Any:
    """The annotation as an object; Any where there is none or where it names what only a type checker imports."""
    kind = parameter.annotation
    if kind is inspect.Parameter.empty:
        return Any
    if isinstance(kind, str):
        try:
            return eval(kind, getattr(inspect.unwrap(function), "__globals__", {}))
        except NameError:
            return Any
    return kind


def _checked(value: Any, kind: Any, key: str, param: str, name: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except PydanticSchemaGenerationError:  # a type of the user's that pydantic cannot check
        return value
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join([key, param, *map(str, first["loc"])])
        fault = first["msg"].removeprefix("Value error, ").replace("Input", "value", 1)
        raise UserError(f"{dotted} of '{name}': {fault}, got {first['input']!r}") from None
