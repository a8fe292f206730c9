"""What a run reads from outside, as digests see it: content by hash, hub ids by commit, functions by their source.

Taken once a run: the parent writes it into the run's folder, and its workers and ranks read it there. So all have the
same digests, whatever happens to the files meanwhile, and none asks the hub or reads the weights again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self, TypeVar

from morlaif.contents import Hashes
from morlaif.data.files import find_file
from morlaif.dotted import find
from morlaif.evaluation.outside import parts_of
from morlaif.evaluation.settings import EvalSettings
from morlaif.feedback.settings import HfSettings
from morlaif.files import read_json
from morlaif.models.fingerprint import hub_commit, identity, policy_identity
from morlaif.registry import of_others
from morlaif.settings import Settings
from morlaif.source import source_identity
from morlaif.units.job import Reads

FILE = "outside.json"  # in the run's folder
Some = TypeVar("Some", bound=Settings)
# How dialogues with a pretrained model are opened, ended and read: another word here where that changes. A model made
# here has one end and one form, and a judge is only asked; neither has it in a digest.
SPOKEN = "turns2"


class Contents:
    """Each content is looked at once, and then known."""

    def __init__(
        self,
        store: Path | None,
        tell: Callable[[str], None] = lambda line: None,
        known: Mapping[str, str | None] | None = None,
    ) -> None:
        """`known`: what `save` wrote. `tell` is given a line before what takes long."""
        self._hashes = Hashes(store, tell)
        self.known = dict(known or {})

    @classmethod
    def of_run(cls, folder: Path, store: Path) -> Self:
        """As the parent saw it, if it has written it down."""
        file = folder / FILE
        return cls(store, known=read_json(file, "what a run reads from outside", of=dict) if file.is_file() else None)

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self.known, indent=1, sort_keys=True) + "\n")

    def files(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """The hash of each file's content."""
        new = [path for path in dict.fromkeys(paths) if f"file {path}" not in self.known]
        self.known |= {f"file {path}": made for path, made in zip(new, self._hashes.of(new), strict=True)}
        return tuple(str(self.known[f"file {path}"]) for path in paths)

    def model(self, key: str, path: str, revision: str | None, trusted: bool, unit: bool = False) -> str:
        """`unit`: the folder of a finished unit counts as the policy that it leaves."""
        name = f"model {path}@{revision}{' +python' if trusted else ''}"
        of = policy_identity if unit else identity
        return self._once(name, lambda: of(path, revision, self._hashes, trusted=trusted, key=key))

    def policies(self, settings: EvalSettings) -> dict[str, str]:
        """The identity of each further policy, by name."""
        made = {}
        for name, where in settings.policies.items():
            trusted, key = name in settings.trust_remote_code, f"eval.policies.{name}"
            content = self._once(
                f"policy {where}{' +python' if trusted else ''}",
                lambda where=where, **given: policy_identity(*parts_of(where), self._hashes, **given),
                trusted=trusted, key=key,
            )  # fmt: skip
            made[name] = f"{content}+{SPOKEN}"
        return made

    def pinned(self, settings: Some) -> Some:
        """The settings with each hub id's revision as the commit that it names now: what is loaded is what the digests
        cover, and the same in each process."""
        held = {name: getattr(settings, name) for name in type(settings).model_fields}
        changes: dict[str, Any] = {}
        for name, value in held.items():
            if isinstance(value, Settings) and (new := self.pinned(value)) is not value:
                changes[name] = new
            elif isinstance(value, Mapping):
                inner = {k: self.pinned(v) if isinstance(v, Settings) else v for k, v in value.items()}
                if any(inner[k] is not v for k, v in value.items()):
                    changes[name] = inner
        for name, kind in type(settings).reads_outside.items():
            path = held[name]
            local = kind == "dataset" and held["path"] is not None  # a file in its place
            if kind not in ("function", "file") and path is not None and not local:
                changes["revision"] = self._commit(path, held["revision"], kind)
        changes |= settings.pinned(lambda path, revision: self._commit(path, revision, "model"))
        return settings.model_copy(update=changes) if changes else settings

    def of(self, reads: Reads) -> dict[str, str]:
        """The content of all that the settings in `reads` name, by dotted key."""
        return dict(self._walk("", {part.name: getattr(reads, part.name) for part in fields(reads)}))

    def code(self, path: str) -> dict[str, str]:
        """The source of the class or function of others at a dotted path, as `of` gives it; of ours nothing."""
        made = self._function("code", path)
        return {} if made is None else {"code": made}

    def _walk(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Settings):
            held = {name: getattr(value, name) for name in type(value).model_fields}
            for name, inner in held.items():
                at = f"{key}.{name}"
                kind = value.reads_outside.get(name)
                if inner is None:
                    continue
                if kind == "model":
                    judge = isinstance(value, HfSettings)  # which may be a finished unit's folder
                    content = self.model(at, inner, held["revision"], held["trust_remote_code"], unit=judge)
                    yield at, content if judge else f"{content}+{SPOKEN}"
                elif kind == "file":
                    yield at, self.files([find_file(at, inner)])[0]
                elif kind == "function" and isinstance(inner, list | tuple):
                    named = {f"{at}.{place}": self._function(at, path) for place, path in enumerate(inner)}
                    yield from ((where, made) for where, made in named.items() if made is not None)
                elif kind == "function" and (made := self._function(at, inner)) is not None:
                    yield at, made
                elif name not in value.outside_digest:
                    yield from self._walk(at, inner)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                yield from self._walk(f"{key}.{name}" if key else str(name), inner)
        elif isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                yield from self._walk(f"{key}.{place}", inner)

    def _function(self, key: str, path: str) -> str | None:
        def made() -> str | None:
            if (theirs := of_others(path)) is None:
                return None  # a stage's version says when our own code has changed
            return source_identity(find(theirs, key, "morlaif", "module.function"), theirs)

        return self._once(f"function {path}", made)

    def _commit(self, path: str, revision: str | None, kind: str) -> str | None:
        if Path(path).expanduser().is_dir():
            return revision
        return self._once(f"{kind} {path}@{revision} is", lambda: hub_commit(path, revision, kind).id or revision)

    def _once(self, name: str, make: Callable[..., Any], **given: Any) -> Any:
        if name not in self.known:
            self.known[name] = make(**given)
        return self.known[name]
