"""Markdown tables of the JSON lines that smoke.py and figures.py left in a folder.

python benchmarks/gpu/table.py <out folder>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    checks, figures = _rows(folder / "smoke.jsonl"), _rows(folder / "figures.jsonl")
    if checks:
        print("| check | | seconds | |\n|---|---|--:|---|")
        for row in checks:
            rest = {key: row[key] for key in row if key not in ("check", "device", "ok", "seconds", "error")}
            told = ", ".join(f"{key} {value}" for key, value in rest.items()) or row.get("error", "")
            print(f"| {row['check']} | {'passed' if row['ok'] else 'failed'} | {row['seconds']} | {_cell(told)} |")
    for shape in dict.fromkeys(row["shape"] for row in figures):
        own = [row for row in figures if row["shape"] == shape]
        print(f"\n{shape}: " + "; ".join(_facts(row) for row in own if "tokens" not in row and "wall" not in row))
        print("\n| what | tokens | seconds | tokens/s | TFLOP/s | of the matrix rate | |")
        print("|---|--:|--:|--:|--:|--:|---|")
        for row in own:
            if "tokens" in row:
                share = f"{row['share']:.1%}" if "share" in row else ""
                rest = ", ".join(f"{key} {row[key]}" for key in ("times", "difference") if key in row)
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
    main(Path(sys.argv[1]))
