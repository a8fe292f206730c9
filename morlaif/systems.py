"""docs/systems.md: every system that MORLAIF is compared with, how faithful ours is, and what it came to.

    python -m morlaif.systems docs/systems.yaml docs/systems.md [<runs>/<run of several arms>]

Without a run, the numbers that stand in the page stay.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from morlaif.errors import UserError
from morlaif.evaluation.results import SFT, Estimate, RunDetails, RunResults, load
from morlaif.evaluation.wins import versus
from morlaif.files import read_json, read_text
from morlaif.texts import markdown

TABLE = re.compile(r"<!--table-->.*<!--/table-->", re.DOTALL)
NONE = "<!--table-->\nNo run yet.\n<!--/table-->"
HEAD = """\
# Systems

What else one would do with the same labels, each an arm of a run or a command: which paper it is from, what of it is
faithful, what differs and why, and what could not be checked against the source. An arm is one definition in
`conf/config.yaml`; `arms.select=[morlaif,<arm>]` compares any of them.

    make systems                                           # all arms below in one run on the toy world
    make docs SYSTEMS=runs/<run>                           # this page with its numbers

All arms share prompts, SFT policy, responses, labels and ledger, and are judged by one standard on the same held-out
prompts. Neither budgets nor distances from SFT (KL, nats a response) are equal: the table says what each took.
"""


@dataclass(frozen=True, kw_only=True)
class System:
    """An entry of docs/systems.yaml."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    paper: str
    arm: str | None = None  # of conf/config.yaml, by which its number is found
    command: str | None = None  # where that is more than an arm
    faithful: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def how(self) -> str:
        return self.command or f"arms.select=[{','.join(dict.fromkeys(('morlaif', str(self.arm))))}]"


def read_systems(path: Path) -> list[System]:
    """
    Raises:
        UserError: an entry lacks a part, has one too many, or says neither its arm nor its command.
    """
    given = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(given, list):
        raise UserError(f"{path}: expected a list of systems")
    adapter = TypeAdapter(System)
    made = []
    for row, entry in enumerate(given, 1):
        name = entry.get("name", row) if isinstance(entry, Mapping) else row
        try:
            made.append(adapter.validate_python(entry))
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"]))
            raise UserError(f"{path}: system {name}: {where}: {found['msg']}") from None
        if not (made[-1].arm or made[-1].command):
            raise UserError(f"{path}: system {name}: give its arm or its command")
    return made


def document(systems: Sequence[System], table: str) -> str:
    parts = [HEAD, "## Numbers\n", table, ""]
    for system in systems:
        parts += [f"## {system.name}\n", f"{markdown(system.paper)} · `{system.how}`\n"]
        sections = {"Faithful": system.faithful, "Differs": system.differs, "Not checked": system.unchecked}
        for title, lines in sections.items():
            if lines:
                parts += [f"{title}:\n", *(f"- {line}" for line in lines), ""]
    return "\n".join(parts).rstrip() + "\n"


def numbers(systems: Sequence[System], run: Path) -> str:
    """The table of one run of many arms."""
    results = load(RunResults, run / "results.json", "the results of a run")
    config = read_json(run / "config.json", "the config of a run", of=dict)
    select = list(config["arms"]["select"])
    kls = _kls(run, Path(config["paths"]["store"]))
    called = {system.arm: system.name for system in reversed(systems) if system.arm}
    lines = [
        f"`arms.select=[{','.join(select)}]`, seed {config['seed']}: one seed, so intervals cover prompts alone.\n",
        f"| arm | system | win rate over SFT | KL | {' | '.join(COUNTED.values())} |",
        "|---|---|---|--:|" + "--:|" * len(COUNTED),
    ]
    for arm in select:
        budget = results.budget.arms[arm] if results.budget else None
        counts = [_count(getattr(budget, key, None)) for key in COUNTED]
        rate = _rate(results.win_rate.get(versus(arm, SFT)))
        lines.append(
            f"| `{arm}` | {markdown(called.get(arm, ''))} | {rate} | {kls.get(arm, '·')} | {' | '.join(counts)} |"
        )
    return "\n".join(["<!--table-->", *lines, "<!--/table-->"])


def _kls(run: Path, store: Path) -> dict[str, str]:
    """By arm, nats a response from SFT; those of an evaluation that is no longer in the store are unknown."""
    units = read_json(run / "run.json", "the record of a run", of=dict)["units"]
    digest = next((unit["digest"] for unit in units if unit["name"] == "evaluate"), None)
    file = store / "evaluate" / str(digest) / "details.json"
    if not file.is_file():
        return {}
    details = load(RunDetails, file, "an evaluation's details")
    bounds = {arm: "≤ " if facts.kl_bound else "" for arm, facts in details.arms.items()}
    known = {arm: signs.kl for arm, signs in details.hacking.items() if arm in bounds}
    return {arm: f"{bounds[arm]}{kl:.1f}" for arm, kl in known.items() if kl is not None}


COUNTED = {  # of an arm's budget
    "verdicts": "verdicts",
    "ratings": "ratings",
    "adapters": "networks trained as PMs",
    "pm_steps": "their steps",
    "ppo_steps": "steps of the policy",
    "ppo_tokens": "tokens sampled",
}


def _rate(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "·"
    ends = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends}"


def _count(value: float | None) -> str:
    return "·" if value is None else f"{value:,.0f}"


def main(words: Sequence[str]) -> None:
    systems, page = read_systems(Path(words[0])), Path(words[1])
    kept = TABLE.search(read_text(page)) if page.is_file() else None
    table = numbers(systems, Path(words[2])) if len(words) > 2 else kept[0] if kept else NONE
    page.write_text(document(systems, table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
