"""Markdown tables of the JSON lines that smoke.py and figures.py left in a folder.

    python benchmarks/gpu/table.py <out folder> [--page benchmarks/gpu.md]

With `--page` the tables of a GPU take the place of those between the page's two marks; a CPU's never do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

EXTRA = ("times", "difference", "ms a token step", "first round", "peak_gb", "alike", "first difference")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main(folder: Path, page: Path | None = None) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as tables:
        show(folder)
    print(tables.getvalue(), end="")
    run = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    if page is None:
        return
    if run.get("device", "a CPU") == "a CPU":
        print(f"\n{page} stays as it is: what a CPU does is not for that page")
        return
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    section = f"{run['device']}, commit {run['commit']}, {run['date']}.\n\n{tables.getvalue().strip()}"
    page.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}")


def show(folder: Path) -> None:
    checks, figures = _rows(folder / "smoke.jsonl"), _rows(folder / "figures.jsonl")
    if checks:
        print("| check | | seconds | |\n|---|---|--:|---|")
        for row in checks:
            rest = {key: row[key] for key in row if key not in ("check", "device", "ok", "seconds", "error")}
            details = ", ".join(f"{key} {value}" for key, value in rest.items()) or row.get("error", "")
            print(f"| {row['check']} | {'passed' if row['ok'] else 'failed'} | {row['seconds']} | {_cell(details)} |")
    for shape in dict.fromkeys(row["shape"] for row in figures):
        own = [row for row in figures if row["shape"] == shape]
        if out := [row["what"] for row in own if "left_out" in row]:
            print(f"\n{shape}, left out for want of time: {', '.join(out)}")
        own = [row for row in own if "left_out" not in row]
        print(f"\n{shape}: " + "; ".join(_facts(row) for row in own if "tokens" not in row and "wall" not in row))
        print("\n| what | tokens | seconds | tokens/s | TFLOP/s | of the matrix rate | |")
        print("|---|--:|--:|--:|--:|--:|---|")
        for row in own:
            if "tokens" in row:
                share = f"{row['share']:.1%}" if "share" in row else ""
                rest = ", ".join(f"{key} {row[key]}" for key in EXTRA if key in row)
                speed = f"{row['tokens_a_second']:,}"
                cells = [row["what"], f"{row['tokens']:,}", row["seconds"], speed, row["tflops"], share, rest]
                print("| " + " | ".join(map(str, cells)) + " |")
        print("\n| stage | seconds | peak GB | plan GB | plan / peak |\n|---|--:|--:|--:|--:|")
        for row in own:
            if "wall" in row:
                keys = ("what", "wall", "peak_gb", "plan_gb", "plan / peak")
                print("| " + " | ".join(str(row.get(key, "")) for key in keys) + " |")


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _facts(row: dict[str, Any]) -> str:
    return f"{row['what']}: " + ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("shape", "what"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path)
    asked.add_argument("--page", type=Path)
    arguments = asked.parse_args()
    main(arguments.out, arguments.page)
