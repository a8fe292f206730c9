"""No unit that a release has built is built again by the next, unless the stage's version says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import golden
import pytest

from morlaif.units.store import Store

KNOWN = json.loads(golden.FILE.read_text())
CASES = golden.cases()
ADVICE = (
    "a digest changed: what the store holds of {units} would be built again. Give the new key a neutral value "
    "(`neutral` of its settings class), or raise the stage's version, which is a line in CHANGELOG.md, "
    "and run `python tests/support/golden.py`"
)
SLOW = [name if name == "experiment=smoke" else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]


def test_no_preset_of_the_release_is_gone():
    """One that is new has its line when digests are written anew."""
    assert KNOWN.keys() <= CASES.keys()


@pytest.mark.parametrize("name", SLOW)
def test_digests_are_those_of_the_release_before(name):
    known, made = KNOWN[name], golden.changed(name, CASES[name])
    other = [unit for unit in known | made if known.get(unit) != made.get(unit)]
    assert not other, ADVICE.format(units=", ".join(other))


def test_a_store_of_the_release_before_is_used(tmp_path):
    units = golden.units(["experiment=smoke"])
    for name, digest in KNOWN["experiment=smoke"].items():
        _leave(tmp_path, name, digest)
    store = Store(tmp_path)
    assert all(store.has(unit) for unit in units)

    def make(*_: Path) -> dict:
        raise AssertionError("built again")

    assert {store.build(unit, make) for unit in units} == {"cached"}


def _leave(root: Path, name: str, digest: str) -> None:
    """A finished unit as that release wrote it, with one file."""
    stage = name.partition("/")[0]
    folder = root / stage / digest
    folder.mkdir(parents=True)
    file = folder / "result.json"
    file.write_text("{}")
    manifest = {
        "stage": stage, "name": name, "version": 1, "reads": {}, "needs": {}, "files": [], "digest": digest,
        "summary": {}, "seconds": 1.5, "finished": "2026-11-27T00:00:00+00:00", "host": "here",
        "files_written": {file.name: 2}, "sha256": {file.name: hashlib.sha256(b"{}").hexdigest()},
        "modified": {file.name: file.stat().st_mtime_ns},
    }  # fmt: skip
    check = hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"check": check}))
