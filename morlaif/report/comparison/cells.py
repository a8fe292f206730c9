"""Policies that differ by seed alone, as one: the cells of a comparison, and the seeds of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from morlaif.evaluation.aggregate import Cell
from morlaif.report.comparison.data import ComparedRun, ComparedRuns, Policy
from morlaif.report.comparison.labels import is_seed


@dataclass(frozen=True)
class Seeds:
    """How the runs of a comparison are seeded."""

    keys: tuple[str, ...]  # in which they differ

    @classmethod
    def of(cls, data: ComparedRuns) -> Seeds:
        return cls(tuple(key for key in data.labels.keys if is_seed(key)))

    def name(self, run: ComparedRun) -> str:
        """ "seed 1", "pm seed 0 · ppo seed 1"; empty where all runs have one."""
        row = run.labels_of(self.keys)
        return " · ".join(f"{' '.join(key.split('.'))} {row[key]}" for key in self.keys)


def levels(seeds: Sequence[str]) -> list[tuple[str, ...]]:
    """The seed of each source, as `variance.crossed` takes them."""
    return [tuple(seed.split(" · ")) for seed in seeds]


def cells(data: ComparedRuns) -> list[Cell]:
    """Every arm under every setting once, in the order of the policies.

    Two policies are of one cell where they are of one arm and a run of each has the same settings but seeds.
    """
    seeds = Seeds.of(data)
    keys = [key for key in data.labels.keys if key not in seeds.keys]

    def settings(policy: Policy) -> set[tuple[str, ...]]:
        return {tuple(data.labels.row(run.config)[key] for key in keys) for run in policy.runs}

    found: list[tuple[str, set[tuple[str, ...]], dict[str, Policy]]] = []
    for policy in data.policies:
        own, at = settings(policy), {seeds.name(run): policy for run in policy.runs}
        for name, known, members in found:
            free = all(members.get(seed, policy) is policy for seed in at)
            if name == policy.name and known & own and free:
                known |= own
                members |= at
                break
        else:
            found.append((policy.name, own, at))
    made = []
    for name, known, members in found:
        setting = {key: values.pop() for k, key in enumerate(keys) if len(values := {row[k] for row in known}) == 1}
        first = next(iter(members.values()))
        runs = _runs(members.values())
        peers = [_runs(other.values()) for other_name, _, other in found if other_name == name]
        label = data.policy_label(name, runs, peers, but=seeds.keys)
        made.append(
            Cell(first.key, label, name, setting, {seed: members[seed].key for seed in sorted(members, key=_numbers)})
        )
    twice = Counter(cell.label for cell in made)
    made = [replace(cell, label=f"{cell.label} · {cell.arm}") if twice[cell.label] > 1 else cell for cell in made]
    twice = Counter(cell.label for cell in made)
    by_key = {policy.key: policy.label for policy in data.policies}
    return [replace(cell, label=by_key[cell.key]) if twice[cell.label] > 1 else cell for cell in made]


def _runs(policies: Iterable[Policy]) -> list[ComparedRun]:
    return [run for policy in {policy.key: policy for policy in policies}.values() for run in policy.runs]


def _numbers(seed: str) -> list[tuple[bool, int, str]]:
    return [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in seed.split()]
