"""docs/claims.md: every claim with how it is tested, and the tables of the last runs of each sweep of claims.

    python -m morlaif.claims.document docs/claims.md [<runs>/sweeps/claims-…/claims.json …]

Of a sweep whose numbers are not given, those that stand in the page stay.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from morlaif.claims.spec import Known, find_claims
from morlaif.claims.table import Row, in_words, interval, needed
from morlaif.errors import Damaged
from morlaif.files import read_json, read_text
from morlaif.texts import markdown

TABLE = re.compile(r"<!--(\w+)-->\n(.*?)\n<!--/\1-->", re.DOTALL)
SWEEPS = {  # by name, what is said above its table
    "claims": "## Verdicts\n",
    "rlaif_table": "## RLAIF's table\n\nThe claims of RLAIF (arXiv 2309.00267) by policies that are trained as that "
    "paper trains, with REINFORCE and a\n"
    "value baseline (`ppo=toy_rlaif`, on models of yours `ppo=rlaif feedback=rlaif`):\n",
}
HEAD = """\
# Claims

What papers say of these methods, each sentence a file of `sweeps/claims/`: the arms that test it, the number that is
estimated at every seed, and the test of its mean.

    make claims                                            # all, on the toy world
    morlaif sweep=claims claim=scalarizer_irrelevant       # one of them
    morlaif sweep=claims dry_run=true                      # which runs, and what is there already
    morlaif sweep=claims experiment=local model.path=… judge.path=… data.path=… budget=small

Runs that are alike are one, and share all units of the store; the same command again runs what is missing. A seed sets
`claims.vary`; held-out prompts and judge are the same for all. Verdicts are adjusted over the table by Holm's method: a
wrong one, anywhere in it, has a chance of at most `claims.alpha`. *Undecided* means that these seeds do not tell, and
the table says how many would with power .8, if mean and deviation are what they are. A claim of several parts holds
where all do. `claims.html` has every seed, `claims.json` the numbers.
"""
OWN = """\
## A claim of your own

A YAML file, given as `claim=mine.yaml`, or put into the folder `claims/` of `--config-dir` or of a package's presets:

```yaml
statement: Weights by regression beat equal ones.
source: our group's meeting
paper: nobody has published a figure
base: arms.select=[morlaif]          # overrides of all arms
arms:                                # and of each
  regressed: weights=regressed
  equal: []
estimate: {name: win_rate, first: regressed, second: equal}
test: {kind: greater, than: 0.5}     # or less, or {kind: equivalent, to: 0.5, margin: 0.05}
```

`sweep: {principles.count: [1, 4, 12]}` runs every arm at each value, and `estimate: {name: slope, of: …}` is the rise
for each doubling. Estimators are `win_rate` (judged on the responses that both arms gave to the same prompts), `number`
(a number in a JSON file of an arm's unit, or its difference from another), `slope`, `accuracy_by_count` and
`label_agreement`. One of your own is a class that inherits `morlaif.claims.estimators.Estimator`, named by its dotted
path. `models: {small: model=toy_small}` makes an SFT model first, which arms name as `{small}`;
`claims.models.small=<folder or hub id>` gives another.
"""


def document(claims: Sequence[Known], tables: Mapping[str, str]) -> str:
    """
    Args:
        tables: by sweep; of one that is not there no run is known.
    """
    parts = [HEAD]
    for sweep, above in SWEEPS.items():
        parts += [above, f"<!--{sweep}-->\n{tables.get(sweep, 'No run yet.')}\n<!--/{sweep}-->", ""]
    parts.append("## How each is tested\n")
    for known in claims:
        claim = known.claim
        arms = "\n".join(
            f"| {name} | `{' '.join(words) or 'as the sweep'}` |" for name, words in claim.every_arm.items()
        )
        parts += [
            f"### {known.name}\n",
            f"{claim.statement} *{claim.source}: {claim.paper}.*{f' {claim.note}' if claim.note else ''}\n",
            f"Claimed: `{claim.estimate.name}` {in_words(claim.test)}.\n",
            f"| arm | overrides |\n|---|---|\n{arms}\n",
        ]
    return "\n".join([*parts, OWN])


def verdicts(found: Mapping[str, Any]) -> str:
    """The table of a run, from its claims.json."""
    rows = TypeAdapter(list[Row]).validate_python(found["claims"])
    command = " ".join(word for word in str(found["command"]).split() if not word.startswith("paths."))
    lines = [
        f"{found['summary']}. `{command}`, {found['seeds']} seeds of {', '.join(found['vary'])}.\n",
        "| claim | verdict | estimate over seeds | claimed | seeds | p, adjusted | would decide | the paper's figure |",
        "|---|---|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        own = row.shown.name if row.shown and len(row.parts) > 1 else ""
        estimate = interval(row.shown) + (f", {own}" if own else "")
        verdict = f"**{row.verdict}**" if row.verdict else "not tested here"
        p = "" if row.adjusted is None else "< .001" if row.adjusted < 0.001 else f"{row.adjusted:.3f}"
        texts = [markdown(text) for text in (row.statement, estimate, row.claimed, row.paper)]
        cells = [texts[0], verdict, *texts[1:3], str(len(row.seeds) or ""), p, needed(row), texts[3]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kept(page: str) -> dict[str, str]:
    """The tables that stand in the page, by sweep."""
    return dict(TABLE.findall(page))


def main(words: Sequence[str]) -> None:
    page = Path(words[0])
    tables = kept(read_text(page)) if page.is_file() else {}
    for file in words[1:]:
        found = read_json(Path(file), "the numbers of claims", of=dict, failure=Damaged)
        words = str(found["command"]).split()
        tables[next((name for name in SWEEPS if f"sweep={name}" in words), "claims")] = verdicts(found)
    page.write_text(document(find_claims("all"), tables), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
