"""What stands in a digest for a function of the user's."""

from __future__ import annotations

import importlib
import sys

import pytest

from morlaif.dotted import find
from morlaif.scalarize.functions import linear
from morlaif.source import source_identity


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`mine.rules` imports a sibling, and this one another; `mine.apart` is imported by neither."""
    home = tmp_path / "mine"
    (home / "deep").mkdir(parents=True)
    files = {
        "__init__": "",
        "rules": "from functools import partial\nimport json, numpy\nfrom .parts import factor\n\n\ndef rule(r):\n"
        "    from mine.deep import late\n    return r.sum(-1) * factor * late.one\n\n\nhalf = partial(rule)\n",
        "parts": "from mine import more\nfactor = more.two\n",
        "more": "import beside\ntwo = 2\n",
        "apart": "",
        "deep/__init__": "",
        "deep/late": "one = 1\n",
    }
    for name, text in files.items():
        (home / f"{name}.py").write_text(text)
    (tmp_path / "beside.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("mine", "beside")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def told(name: str = "mine.rules.rule") -> str | None:
    return source_identity(find(name, "scalarizer.function", "morlaif.scalarize.functions", "linear"), name)


@pytest.mark.parametrize(
    "file", ["mine/rules", "mine/parts", "mine/more", "mine/__init__", "mine/deep/late", "mine/deep/__init__", "beside"]
)
def test_a_byte_in_any_file_that_it_imports_changes_it(package, file):
    before = told()
    path = package / f"{file}.py"
    path.write_text(path.read_text() + "#\n")
    assert told() != before


def test_what_it_does_not_import_changes_nothing(package):
    before = told()
    (package / "mine" / "apart.py").write_text("#\n")
    (package / "other.py").write_text("#\n")
    assert told() == before == told()


def test_a_partial_is_named_by_what_it_calls(package):
    assert told("mine.rules.half") == told()


def test_the_place_does_not_count(package, tmp_path_factory, monkeypatch):
    import shutil

    before = told()
    moved = shutil.copytree(package, tmp_path_factory.mktemp("moved") / "there")
    monkeypatch.syspath_prepend(moved)
    for name in [n for n in sys.modules if n.split(".")[0] in ("mine", "beside")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert told() == before
    assert sys.modules["mine.rules"].__file__.startswith(str(moved))


def test_our_own_functions_have_none():
    """A stage's version says when they have changed."""
    assert source_identity(linear, "morlaif.scalarize.functions.linear") is None
