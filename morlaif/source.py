"""The source behind a function of the user's: the part of a digest for code that a unit runs."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import morlaif

_OURS = Path(morlaif.__file__).parent.resolve()
_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def source_identity(function: Callable[..., Any], path: str) -> str | None:
    """32 hex digits for the files that the function at the dotted `path` is written in; None: it is our own.

    These are its module's, and of the modules that it imports, and those in turn, all of its own package and all that
    are not installed: what lies beside it, or on PYTHONPATH. What a module finds out while it runs (`import_module`, a
    file of data) is not seen.
    """
    start = {path.rpartition(".")[0], *(name for name in _modules(function) if name)}
    package = {name.partition(".")[0] for name in start}
    found: dict[str, str] = {}
    waiting = sorted(start)
    while waiting:
        name = waiting.pop()
        if name in found or (file := _file(name)) is None:
            continue
        if file.is_relative_to(_OURS) or (_installed(file) and name.partition(".")[0] not in package):
            continue
        raw = file.read_bytes()
        found[name] = hashlib.sha256(raw).hexdigest()
        parents = (name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
        waiting += [*parents, *(_imports(raw, name, file) if file.suffix == ".py" else ())]
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()[:32] if found else None


def _modules(function: Any) -> Iterator[str | None]:
    """Where the function, what it wraps, and its companions were written."""
    while isinstance(function, partial):
        function = function.func
    plain = inspect.unwrap(function)
    for part in (plain, getattr(plain, "start", None), getattr(plain, "update", None)):
        if part is not None:
            yield getattr(part, "__module__", None) or type(part).__module__


def _file(name: str) -> Path | None:
    """Of a module, without running it; its parents are imported already, or it is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    file = Path(spec.origin).resolve()
    return file if file.is_file() else None


def _imports(raw: bytes, name: str, file: Path) -> Iterator[str]:
    """Every module that the file names in an import, wherever in it; names from a package may be modules too."""
    try:
        tree = ast.parse(raw)
    except (SyntaxError, ValueError):  # whoever imports it gets the error
        return
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            if module:
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names if _is_package(module))


def _is_package(name: str) -> bool:
    return name not in sys.modules or hasattr(sys.modules[name], "__path__")


def _installed(file: Path) -> bool:
    """Whether a package manager, or Python itself, brought it: a change there is a new version of the environment."""
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or any(map(file.is_relative_to, _STANDARD))
