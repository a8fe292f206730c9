"""The key of a form: read as it was written, and refused in one line where it is not."""

from __future__ import annotations

import json

import pytest

from morlaif.errors import UserError
from morlaif.evaluation.human.key import read_key


@pytest.fixture
def key(study):
    return {"run": "toy-1", **study.key()}


def test_what_export_writes_is_read(key, tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(key))
    assert read_key(tmp_path / "key.json") == key


def first(key, kind):
    return next(id_ for id_, item in key["items"].items() if item["kind"] == kind)


BROKEN = {
    "not JSON": (lambda k: "{not", "not JSON"),
    "empty": (lambda k: "", "is empty; expected the key that human=export wrote"),
    "cut off": (lambda k: json.dumps(k)[:300], "breaks off in the middle"),
    "a list": (lambda k: "[]", "holds a list where an object should be"),
    "a missing field": (lambda k: k.pop("items"), "items: is missing"),
    "a missing field of an item": (lambda k: k["items"][first(k, "pair")].pop("a"), ".a: is missing"),
    "a wrong type": (lambda k: k.update(items=[]), "items: input should be a valid dictionary"),
    "an item that is none": (lambda k: k["items"].update(x1=3), "items.x1: input should be"),
    "a form that is a number": (lambda k: k.update(form=3), "form: input should be a valid string"),
    "a seed past all bounds": (lambda k: k.update(seed=10**30), "seed:"),
    "a negative count": (lambda k: k["comparisons"]["policy_vs_sft"].update(identical=-1), "comparisons.policy_vs_sft"),
    "an unknown kind": (lambda k: k["items"][first(k, "pair")].update(kind="x"), "kind: input should be 'pair'"),
    "no comparison": (lambda k: k["items"][first(k, "pair")].update(comparison="x"), "comparison 'x' is not among"),
    "a side that is not compared": (lambda k: k["items"][first(k, "pair")].update(a="yeti"), "its sides are not"),
    "a repeat of nothing": (lambda k: k["items"][first(k, "repeat")].update(of="x"), "it repeats 'x'"),
    "a check without sides": (lambda k: k["items"][first(k, "check")].update(a="x"), "a check has the sides on_topic"),
    "nothing to rate": (lambda k: k.update(items={}), "items: dictionary should have at least 1 item"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_key_is_one_line(key, tmp_path, case):
    change, line = BROKEN[case]
    made = change(key)
    path = tmp_path / "key.json"
    path.write_text(made if isinstance(made, str) and case in list(BROKEN)[:4] else json.dumps(key))
    with pytest.raises(UserError) as error:
        read_key(path)
    said = str(error.value)
    assert said.startswith(str(path)) and line in said and "\n" not in said and len(said) < len(str(path)) + 300


def test_what_is_no_file(tmp_path):
    (tmp_path / "key.json").mkdir()
    with pytest.raises(UserError, match="is a folder; expected a file, the key that human=export wrote"):
        read_key(tmp_path / "key.json")
