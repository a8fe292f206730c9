from __future__ import annotations

from typing import ClassVar

import pytest
from jobs import made_up

from morlaif.planning.contents import Contents
from morlaif.settings import Settings
from morlaif.units.unit import Plan, Unit


class Some(Settings):
    outside_digest: ClassVar[frozenset[str]] = frozenset({"path"})
    rate: float
    path: str


def unit(name="pm/a", version=1, rate=0.1, path="x", seed=0, **more) -> Unit:
    return made_up(name.split("/")[0], name, version, {"pm": Some(rate=rate, path=path)}, seed=seed, **more)


@pytest.mark.parametrize("change", [{"rate": 0.2}, {"version": 2}, {"seed": 1}, {"name": "pm/b"}])
def test_digest_changes_with_what_is_read(change):
    assert unit(**change).digest != unit().digest


def test_digest_leaves_out_where_and_how_fast():
    assert unit(path="elsewhere").digest == unit().digest


def test_digest_covers_what_is_needed():
    assert unit("ppo", needs=(unit(rate=0.2),)).digest != unit("ppo", needs=(unit(),)).digest


def test_digest_covers_the_content_of_files_not_their_place(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("one")
    second.write_text("one")

    def digest(path):
        return unit(files=Contents(None).files([path])).digest

    before = digest(first)
    assert digest(second) == before
    first.write_text("two")
    assert digest(first) != before


def test_seeds_differ_by_unit_and_are_shared_by_paired_arms():
    assert unit("pm/a").seed != unit("pm/b").seed
    assert unit("pm/a", seed=1).seed != unit("pm/a").seed
    assert unit("ppo/morlaif", paired=True).seed == unit("ppo/rlaif", paired=True).seed
    assert 0 <= unit().seed < 2**31


def test_restricting_keeps_what_is_needed_and_the_order():
    data = unit("data")
    models = [unit(f"pm/{name}", needs=(data,)) for name in "abc"]
    last = unit("ppo", needs=tuple(models[:2]))
    plan = Plan((data, *models, last))
    assert [u.name for u in plan.restricted_to(["ppo"]).units] == ["data", "pm/a", "pm/b", "ppo"]
    assert [u.name for u in plan.restricted_to(["data"]).units] == ["data"]
