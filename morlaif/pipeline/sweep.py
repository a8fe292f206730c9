"""A sweep: which jobs it has and what became of each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from morlaif.pipeline.display import plain_table
from morlaif.pipeline.record import now, read_run, write_whole
from morlaif.pipeline.unit import hash_json

STYLES = {"succeeded": "green", "failed": "bold red", "interrupted": "yellow", "running": "yellow", "not run": "yellow"}


class Sweep:
    """`<runs>/sweeps/<name>.json` lists the jobs; their states are read from their run folders, never kept twice."""

    def __init__(self, runs: Path, jobs: list[tuple[list[str], str]], command: str):
        self.runs, self.jobs, self.command = runs, jobs, command
        self.name = f"sweep-{hash_json([name for _, name in jobs])[:8]}"
        file = runs / "sweeps" / f"{self.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        listed = [{"overrides": overrides, "run": name} for overrides, name in jobs]
        write_whole(
            file, json.dumps({"name": self.name, "command": command, "started": now(), "jobs": listed}, indent=1)
        )

    def states(self) -> list[tuple[list[str], str, dict[str, Any]]]:
        return [
            (overrides, name, dict(read_run(self.runs / name) or {"status": "not run"}))
            for overrides, name in self.jobs
        ]

    def any_failed(self) -> bool:
        return any(run["status"] != "succeeded" for _, _, run in self.states())

    def close(self, console: Console) -> None:
        """Print what succeeded, failed and did not run."""
        (self.runs / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own note of the last sweep alone
        states = self.states()
        shared = set.intersection(*(set(overrides) for overrides, _ in self.jobs)) if len(self.jobs) > 1 else set()
        columns = ("job", "overrides", "status", "seconds", "win rate vs SFT")
        table = plain_table(*columns, right=slice(3, 4))
        for number, (overrides, name, run) in enumerate(states, 1):
            status = run["status"]
            seconds = f"{run['seconds']:.1f}" if "seconds" in run else ""
            table.add_row(
                str(number),
                escape(" ".join(word for word in overrides if word not in shared) or "defaults"),
                f"[{STYLES[status]}]{status}",
                seconds,
                _win_rate(self.runs / name),
            )
        counts = Counter(run["status"] for _, _, run in states)
        console.print()
        console.print(table)
        console.print()
        for _, name, run in states:
            if run["status"] == "failed":
                reason = run.get("error") or "; ".join(
                    f"{u['name']}: {u['error']}" for u in run["units"] if u["state"] == "failed"
                )
                console.print(f"[bold red]{name}[/] {escape(reason)}  ({self.runs / name})", soft_wrap=True)
        console.print(", ".join(f"{count} {status}" for status, count in counts.items()), f"— runs in {self.runs}")
        if counts["succeeded"] < len(states):
            console.print(f"the same command runs what is missing: {escape(self.command)}", soft_wrap=True)


def _win_rate(folder: Path) -> str:
    try:
        rate = json.loads((folder / "results.json").read_text())["win_rate"]["policy_vs_sft"]
    except (FileNotFoundError, KeyError):
        return ""
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
