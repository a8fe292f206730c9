"""Finding a function of the user's own by its dotted path, in a module that is imported only then."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from morlaif.errors import UserError, suggest


def find(path: str, key: str, home: str, example: str) -> Callable[..., Any]:
    """The function at `path`.

    Args:
        key: of the config, for the message.
        home: our own module of such functions, where a bare name is looked for.
        example: a function in it, to show what a path looks like.

    Raises:
        UserError: there is none.
    """
    module_name, _, attribute = path.rpartition(".")
    where = f"{key} '{path}'"
    if not module_name:
        near = suggest(path, _public(importlib.import_module(home)))
        raise UserError(f"{where}: expected a dotted path such as '{home}.{example}'.{near}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise _failed(where, module_name, error) from error  # it is there, and misses something of its own
        raise UserError(f"{where}: no module '{error.name}'; is it installed, or its folder on PYTHONPATH?") from None
    except Exception as error:
        raise _failed(where, module_name, error) from error
    if not hasattr(module, attribute):
        raise UserError(f"{where}: '{module_name}' has no '{attribute}'.{suggest(attribute, _public(module))}")
    function = getattr(module, attribute)
    if not callable(function):
        raise UserError(f"{where}: expected a function, found {type(function).__name__}")
    return function


def _failed(where: str, module: str, error: Exception) -> UserError:
    """What the user's own module raised, and at which of its lines."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else f"{place.filename}:{place.lineno}"
    message = " ".join(str(error).split()) or "no message"
    return UserError(f"{where}: importing '{module}' failed at {at}: {type(error).__name__}: {message}")


def _public(module: ModuleType) -> list[str]:
    """The names of functions, and of the classes that were written there."""
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__ == module.__name__)
    ]
