"""The script that tries bad inputs: what it calls a fault, and a few of its cases."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bad_inputs

        return bad_inputs
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(("said", "code", "fault"), [
    ("morlaif: ppo.steps='x': an integer\n", 2, None),
    ("morlaif: ppo.steps='x': an integer\n", 0, "exit 0 instead of 2"),
    ("morlaif: ppo.steps='x': an integer\n", None, "hung"),
    ("morlaif: something\n", 2, "nothing of /ppo.steps/"),
    ("", 2, "not a word"),
    ("morlaif: ppo.steps\nmorlaif: more\n", 2, "2 lines"),
    ("warning: ppo.steps\n", 2, "a line of somebody else"),
    ("morlaif: ppo.steps \x1b[2J\n", 2, "steer a terminal"),
    ("morlaif: ppo.steps" + "x" * 1000, 2, "a line of 1,018 characters"),
    ("Traceback (most recent call last)\n", 2, "a traceback"),
])  # fmt: skip
def test_what_is_a_fault(script, tmp_path, said, code, fault):
    folder = tmp_path / "case"
    folder.mkdir()
    (tmp_path / "case.err").write_text(said)
    (tmp_path / "case.out").write_text("")
    found = list(script.faults(script.Case("x", (), ("ppo.steps",)), folder, code))
    assert (fault is None and not found) or any(fault in one for one in found)


def test_what_was_built_is_a_fault(script, tmp_path):
    folder = tmp_path / "case"
    (folder / "store" / "sft" / "1a2b").mkdir(parents=True)
    (folder / "store" / "sft" / "1a2b" / "manifest.json").write_text("{}")
    (tmp_path / "case.err").write_text("morlaif: no\n")
    (tmp_path / "case.out").write_text("")
    assert list(script.faults(script.Case("x", (), ()), folder, 2)) == ["built sft"]
    assert not list(script.faults(script.Case("x", (), (), built=frozenset({"sft"})), folder, 2))


def test_there_are_many_cases_and_none_twice(script):
    cases = [(kind, case.name, case.arguments) for kind, found in script.ALL.items() for case in found]
    assert len(cases) >= 250 and len(set(cases)) == len(cases)


@pytest.mark.slow
def test_some_cases_are_answered_well(script, tmp_path):
    """One of several kinds, in forks of this process: most of the time goes into composing the config."""
    chosen = [("typos", "a key"), ("types", "a word as a seed"), ("nulls", "a data file"), ("numbers", "ppo.steps=0"),
              ("syntax", "a word alone"), ("comparisons", "no runs named")]  # fmt: skip
    cases = [(kind, case) for kind, name in chosen for case in script.ALL[kind] if case.name == name]
    kit = script.Kit(tmp_path, tmp_path, "http://127.0.0.1:9")
    outcomes = list(script.run_all(cases, kit, tmp_path / "cases", 2))
    assert len(outcomes) == len(chosen)
    assert not [(one.case.name, one.wrong, one.said) for one in outcomes if one.wrong]
