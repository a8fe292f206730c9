"""The base of every settings class: the YAML tree holds the defaults, these classes only say what is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, and closed: an unknown key is an error. Subclasses give no defaults; every default lives in `conf/`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # Fields that say where, how fast or how often saved, and so cannot change a result: no digest covers them.
    outside_digest: ClassVar[frozenset[str]] = frozenset()
    # Values with which a field, added later, changes nothing: then no digest covers it.
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}


def identity(value: Any) -> Any:
    """The JSON value of settings (or of containers of them) as a digest sees it: without `outside_digest` fields."""
    if isinstance(value, Settings):
        return {
            name: identity(getattr(value, name))
            for name in type(value).model_fields
            if name not in value.outside_digest and getattr(value, name) not in value.neutral.get(name, ())
        }
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return value
