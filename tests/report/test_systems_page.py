"""docs/systems.md is what docs/systems.yaml says, and each entry can be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.systems import TABLE, System, document, numbers, read_systems

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    page = (DOCS / "systems.md").read_text()
    table = TABLE.search(page)
    assert table and page == document(read_systems(DOCS / "systems.yaml"), table[0]), "run `make docs`"


def test_every_arm_that_the_page_names_is_one_of_the_config():
    known = config().arms.definitions
    assert {system.arm for system in read_systems(DOCS / "systems.yaml") if system.arm} <= set(known)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: A, paper: b, arm: c, wrong: d}", "system A: wrong"),
        ("- {name: A, arm: c}", "system A: paper"),
        ("- {name: A, paper: b}", "give its arm or its command"),
        ("a: b", "expected a list"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(tmp_path, text, words):
    (tmp_path / "systems.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_systems(tmp_path / "systems.yaml")


def test_the_table_has_a_row_for_each_arm_of_the_run(artifacts, tmp_path):
    results = json.loads((artifacts()["evaluate"] / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results))
    config = {"seed": 3, "arms": {"select": ["multi", "single"]}, "paths": {"store": str(tmp_path)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "run.json").write_text(json.dumps({"units": [{"name": "evaluate", "digest": "d"}]}))
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "d").symlink_to(artifacts()["evaluate"])
    table = numbers([System(name="The paper's", paper="x", arm="single")], tmp_path)
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    rate = results["win_rate"]["single_vs_sft"]
    assert [row[:2] for row in rows] == [["| `multi`", ""], ["| `single`", "The paper's"]]
    assert rows[1][2] == f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" and "seed 3" in table
    details = json.loads((artifacts()["evaluate"] / "details.json").read_text())
    assert [row[3] for row in rows] == [f"{details['hacking'][arm]['kl']:.1f}" for arm in ("multi", "single")]
