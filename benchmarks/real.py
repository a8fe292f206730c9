"""Real models against TRL, transformers and peft: time and memory of the same work on the same weights.

    python benchmarks/real.py --policy GEMMA_FOLDER --judge QWEN_FOLDER --trl-ppo PYTHON --trl-grpo PYTHON
    python benchmarks/real.py --policy GEMMA_FOLDER --only sample pm --rounds 5

PYTHON is the interpreter of an environment with TRL 1.12 (the last with PPOTrainer; `benchmarks/ppo/make_trl_env.sh`)
or 1.16. A peer that is not given is left out. Each side is a process of its own that loads once; they work in turn,
round about round (with `--apart` one side after another), and figures are medians over rounds. Ratios are of processor
seconds a token (verdict, score), which other programs on the machine disturb least; memory is the peak of the whole
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ppo"))

from case import Case, _write  # noqa: E402
from compare import Side  # noqa: E402

WHAT = ("sample", "judge", "pm", "ppo", "grpo")
CASE = Case(rollouts=16, new_tokens=32, epochs=1, minibatches=2, lora=True)
WANTED = {
    "sample": "1.2", "judge": "3", "pm": "1.3", "grpo": "1.3",
    "shared": "2.5, memory .35", "adapter": "2, memory .4", "separate": "2, memory .6",
}  # fmt: skip
TEXT = """How do I plan a small garden that feeds a family of four through a whole year without much water or any help
from the neighbours next door"""
WORDS = TEXT.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="folder of the policy, which preference models sit on too")
    parser.add_argument("--judge", type=Path, help="folder of a chat model")
    parser.add_argument("--trl-ppo", help="interpreter with TRL 1.12")
    parser.add_argument("--trl-grpo", help="interpreter with TRL 1.16")
    parser.add_argument("--only", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--critics", nargs="+", default=["shared", "adapter", "separate"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="rounds before those that count")
    parser.add_argument("--apart", action="store_true", help="one side after another, where memory does not hold all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where to keep float32 copies; default: a temporary folder")
    parser.add_argument("--verbose", action="store_true", help="show what the sides print")
    args = parser.parse_args()
    print("| what | side | CPU s | wall s | tokens, verdicts, scores | peak GB | times | memory | wanted |")
    print("|---|---|--:|--:|--:|--:|--:|--:|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for what in args.only:
            run(what, args, args.work or Path(temporary))


def run(what: str, args: Namespace, work: Path) -> None:
    folder = args.judge if what == "judge" else args.policy
    peer = {"ppo": args.trl_ppo, "grpo": args.trl_grpo}.get(what, sys.executable)
    if folder is None or peer is None:
        print(f"({what} is left out: {'no folder' if folder is None else 'no interpreter with TRL'} was given)")
        return
    if what in ("ppo", "grpo"):
        prepare(folder, work)
        script = str(HERE / ("ppo/side_trl.py" if what == "ppo" else "real/side_grpo.py"))
        sides = {"TRL": [peer, script, str(work)]}
        mine = [sys.executable, str(HERE / "ppo/side_morlaif.py"), str(work)]
        sides |= {critic: [*mine, critic] for critic in (args.critics if what == "ppo" else ["none"])}
    else:
        script = [sys.executable, str(HERE / "real/sides.py"), what]
        sides = {name: [*script, name, str(folder), str(args.threads)] for name in ("theirs", "ours")}
    make = [partial(Side, name, command, args.threads, args.verbose) for name, command in sides.items()]
    groups = [[one] for one in make] if args.apart else [make]
    ended: list[Side] = []
    for group in groups:
        started = [one() for one in group]
        for side in (side for _ in range(args.warm + args.rounds) for side in started):
            row = side.step()
            parts = "".join(f", {part} {value:.2f}" for part, value in row.get("parts", {}).items())
            print(f"{what}, {side.name}: {row['cpu']:.2f} CPU s, {row['peak']:.0f} MB{parts}", file=sys.stderr)
        for side in started:
            side.end()
        ended += started
    for side in ended:
        side.rows = side.rows[args.warm :]
        print(line(what, side, ended[0]), flush=True)


def line(what: str, side: Side, first: Side) -> str:
    def median(one: Side, name: str) -> float:
        return statistics.median(row[name] for row in one.rows)

    def cost(one: Side) -> float:  # processor seconds of a token
        return statistics.median(row["cpu"] / max(1, row["tokens"]) for row in one.rows)

    peaks = [one.rows[-1]["peak"] for one in (side, first)]
    wanted = "" if side is first else WANTED.get(side.name, WANTED.get(what, ""))
    return (
        f"| {what} | {side.name} | {median(side, 'cpu'):.2f} | {median(side, 'wall'):.2f} | "
        f"{median(side, 'tokens'):.0f} | "
        f"{peaks[0] / 1e3:.2f} | {cost(first) / cost(side):.2f} | {peaks[0] / peaks[1]:.2f} | {wanted} |"
    )


def prepare(source: Path, folder: Path) -> None:
    """Float32 copies of the policy, a reward model on its trunk, and 16 prompts of 12 to 36 tokens."""
    if (folder / "case.json").exists():
        return
    from morlaif.models.load import load_causal_lm, load_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(source)
    model = load_causal_lm(source, tokenizer=tokenizer)
    count = CASE.rollouts
    texts = [" ".join(WORDS[: 4 + 22 * i // (count - 1)]) + "?" for i in range(count)]
    _write(folder, model, tokenizer, [[{"role": "user", "content": text}] for text in texts], CASE)
    lengths = [len(row["ids"]) for row in json.loads((folder / "prompts.json").read_text())]
    print(f"prompts of {min(lengths)} to {max(lengths)} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
