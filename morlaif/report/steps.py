"""What the page says of the steps of training: rows of its tables, what looks unhealthy, quantiles and cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from morlaif.report.data import RunData, words
from morlaif.report.tables import Rows, matrix_rows, number
from morlaif.rl.health import findings

DISTRIBUTIONS = {"histogram/shaped_reward": "shaped reward", "histogram/advantage": "advantage"}
PARTS = {"decides": "decides", "variance_share": "share of variance", "advantage_cosine": "cosine with the reward"}
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
EPOCH = {"approx_kl_k3": 4, "clip_fraction": 3, "ratio_max": 2, "entropy": 3, "grad_norm": 2,
         "explained_variance": 2, "value_clip_fraction": 3}  # digits  # fmt: skip


def epoch_rows(run: RunData) -> Rows:
    """Each epoch of the first step and of the last."""
    rows: list[Sequence[str]] = []
    for arm in run.arms:
        found = run.diagnostics[arm]
        for row in found if len(found) < 2 else (found[0], found[-1]):
            columns = [row.get(f"epochs/{key}", ()) for key in EPOCH]
            for epoch in range(max(map(len, columns))):
                values = [column[epoch] if epoch < len(column) else None for column in columns]
                shown = [number(value, digits) for value, digits in zip(values, EPOCH.values(), strict=True)]
                rows.append((run.label(arm), str(row["step"]), str(epoch + 1), *shown))
    return rows


def part_rows(run: RunData) -> Rows:
    """Of each principle of the policy at the last step: what it decides, its share of variance, its cosine."""
    last = run.curves[run.policy][-1] if run.curves[run.policy] else {}
    return [
        (
            words(name),
            *(number(last.get(f"{kind}/{name}")) for kind in PARTS),
        )
        for name in run.rewarded
        if f"advantage_cosine/{name}" in last or f"decides/{name}" in last
    ]


def finding_rows(run: RunData) -> list[tuple[str, str]]:
    """What is unhealthy, by the arm that shows it."""
    return [(run.label(arm), sentence) for arm in run.arms for sentence in findings(run.curves[arm])]


def distribution_rows(run: RunData) -> Rows:
    """Quantiles at the policy's first step and at its last."""
    found = run.diagnostics[run.policy]
    return [
        (called, str(row["step"]), *(number(value, sign=True) for value in quantiles(row[key], SHARES)))
        for key, called in DISTRIBUTIONS.items()
        for row in (found if len(found) < 2 else (found[0], found[-1]))
        if key in row
    ]


def cosine_table(run: RunData) -> tuple[list[str], Rows]:
    """Heads and rows."""
    names, table = mean_cosines(run)
    return [words(name) for name in names], matrix_rows(names, table)


def mean_cosines(run: RunData, of: str = "advantage") -> tuple[list[str], list[list[float | None]]]:
    """Names and cosines of the policy's principles, mean over the last third of the steps that have them."""
    tables = [row[key] for row in run.diagnostics[run.policy] if (key := f"cosines/{of}") in row]
    if not tables:
        return [], []
    last = tables[-(-2 * len(tables) // 3) :] or tables[-1:]
    names: list[str] = last[-1]["names"]

    def mean(i: int, j: int) -> float | None:
        values = [value for table in last if (value := table["values"][i][j]) is not None]
        return sum(values) / len(values) if values else None

    return names, [[mean(i, j) for j in range(len(names))] for i in range(len(names))]


def quantiles(histogram: Mapping[str, Sequence[float]], shares: Sequence[float]) -> list[float]:
    """Of a histogram of edges and counts, as if values lay evenly within each bin; shares between 0 and 1."""
    edges, counts = histogram["edges"], histogram["counts"]
    reached = [0.0, *accumulate(counts)]
    found = []
    for share in shares:
        wanted = share * reached[-1]
        place = next(i for i, count in enumerate(counts) if count and reached[i + 1] >= wanted)
        part = (wanted - reached[place]) / counts[place]
        found.append(edges[place] + part * (edges[place + 1] - edges[place]))
    return found
