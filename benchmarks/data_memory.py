"""What rows of data take of time and memory in each stage that reads or leaves many of them.

    python benchmarks/data_memory.py [--rows 40000] [--times 4] [--folder /tmp/…] [--steps data respond …]

Makes a file of dialogues of a generated wording, some 1.5 kB a row, with N and with N × times rows, and does with each
what the stages do, each step in a fresh process: read, check and split (data); pair up (respond); write and read again
K principles' verdicts (feedback); tokenize what is imitated (sft); tokenize and label the pairs (pm); tokenize the
prompts (ppo). Prints CPU seconds and the most memory of each, and the ratio of that of the larger file to the smaller.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WORDS = """
    the harbour keeps a boat for every letter that was sent and a letter for every boat that came home late one could
    ask why rain likes roofs or which of two rivers is older but nobody at the mill would say more than a miller says
""".split()  # noqa: SIM905
PRINCIPLES = 2


def dialogues(count: int) -> Iterator[dict[str, str]]:
    """Rows in the form of HH-RLHF."""
    for i in range(count):
        chance = random.Random(i)

        def text(low: int, high: int, chance: random.Random = chance) -> str:
            return " ".join(chance.choices(WORDS, k=chance.randint(low, high)))

        prompt = f"\n\nHuman: {text(5, 40)} {i}?"
        for _ in range(chance.randint(0, 2)):
            prompt += f"\n\nAssistant: {text(10, 60)}.\n\nHuman: {text(5, 40)}?"
        yield {side: f"{prompt}\n\nAssistant: {text(10, 80)} {side}." for side in ("chosen", "rejected")}


def job(folder: Path, name: str, **needs: Path) -> Any:
    out, keep = folder / name, folder / f"{name}-keep"
    for made in (out, keep):
        made.mkdir(exist_ok=True)
    return SimpleNamespace(
        out=out, keep=keep, needs=SimpleNamespace(**needs), seed=0, name=name,
        progress=lambda *args, **more: None,
    )  # fmt: skip


def data(folder: Path) -> None:
    from pydantic import TypeAdapter

    from morlaif.data.settings import DataSettings
    from morlaif.presets import preset
    from morlaif.stages.work.data import build

    made = job(folder, "data")
    tree = preset("data", "hh_rlhf") | {"path": str(folder / "dialogues.jsonl")}
    made.reads = SimpleNamespace(data=TypeAdapter(DataSettings).validate_python(tree), seed=0)
    build(made)


def respond(folder: Path) -> None:
    from pydantic import TypeAdapter

    from morlaif.models.settings import RespondSettings
    from morlaif.presets import preset
    from morlaif.stages.work.respond import build

    made = job(folder, "respond", data=folder / "data")
    made.reads = SimpleNamespace(respond=TypeAdapter(RespondSettings).validate_python(preset("respond", "pairs")))
    build(made)


def feedback(folder: Path) -> None:
    """Verdicts by a hash of the pair, through the chunks and tallies of the stage."""
    import numpy as np

    from morlaif.feedback.chunks import PairChunks, Verdicts, write_verdicts
    from morlaif.feedback.quality import LabelTally
    from morlaif.feedback.records import Verdict

    for k in range(PRINCIPLES):
        pairs = {split: PairChunks.open(folder / "respond", split) for split in ("train", "eval")}
        tallies = {split: LabelTally() for split in pairs}

        def verdicts(k: int = k, pairs: dict[str, PairChunks] = pairs) -> Iterator[Verdicts]:
            for chunk in PairChunks.chain(list(pairs.values())).chunks():
                p = [((int(name, 16) >> 8 * k) % 256 + 0.5) / 256 for name in chunk.ids]
                yield Verdicts.of("hash", [Verdict(n, x, 0.0, True, "hash") for n, x in zip(chunk.ids, p, strict=True)])

        parts = verdicts()
        out = folder / f"feedback-{k}"
        write_verdicts(out, {split: tallies[split].passing(pairs[split], parts) for split in pairs})
        assert all(np.isfinite(tallies[split].measure()["confidence"]) for split in pairs)


def tokenizer(folder: Path) -> Any:
    from itertools import islice

    from morlaif.data.records import load_split
    from morlaif.models.scratch import train_tokenizer

    examples = islice(load_split(folder / "data", "train"), 500)
    return train_tokenizer([turn["content"] for example in examples for turn in example.messages], 600)


def sft(folder: Path) -> None:
    from morlaif.data.records import load_split
    from morlaif.models.finetune import tokenize

    rows = tokenize(tokenizer(folder), load_split(folder / "data", "sft"), 512, folder)
    assert sum(len(rows[i]["input_ids"]) for i in random.Random(0).sample(range(len(rows)), len(rows)))


def pm(folder: Path) -> None:
    """What a training of preference models holds before its first step."""
    from functools import partial

    import torch

    from morlaif.data.records import load_pairs
    from morlaif.feedback.records import load_verdicts
    from morlaif.preference.learners import Texts
    from morlaif.preference.model import tokenize
    from morlaif.preference.pairs import label_pairs

    own = tokenizer(folder)
    verdicts = {str(k): load_verdicts(folder / f"feedback-{k}", "train") for k in range(PRINCIPLES)}
    encode = partial(tokenize, own, max_length=512)
    labelled = label_pairs(encode, load_pairs(folder / "respond", "train"), verdicts, folder)
    texts = Texts(labelled.rows, 0, torch.device("cpu"))
    order = torch.randperm(len(texts.lengths)).tolist()
    for start in range(0, len(order), 64):
        texts.batch(order[start : start + 64])


def prompts(folder: Path) -> None:
    """The prompts of policy optimisation, and one pass over them in a random order."""
    from morlaif.data.chat import prompt_ids
    from morlaif.data.records import different_prompts, load_split
    from morlaif.data.spool import token_spool

    own = tokenizer(folder)
    asked = different_prompts(load_split(folder / "data", "train"))
    ids = token_spool(folder, (prompt_ids(own, messages, 256) for messages in asked))
    for i in random.Random(0).sample(range(len(ids)), len(ids)):
        assert ids[i]


STEPS: dict[str, Callable[[Path], None]] = {
    "data": data, "respond": respond, "feedback": feedback, "sft": sft, "pm": pm, "prompts": prompts,
}  # fmt: skip


def measured(step: str, folder: Path) -> dict[str, float]:
    """In this process: CPU seconds, and the most memory that it ever had."""
    import datasets  # noqa: F401  its import is no part of the work

    if step in ("sft", "pm", "prompts", "respond"):
        import torch  # noqa: F401
        import transformers  # noqa: F401
    begun = time.process_time()
    STEPS[step](folder)
    return {
        "CPU seconds": time.process_time() - begun,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="keeps what is made")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(measured(given.child[0], Path(given.child[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        home = given.folder or Path(temporary)
        sizes = (given.rows, given.rows * given.times)
        for rows in sizes:
            (folder := home / str(rows)).mkdir(parents=True, exist_ok=True)
            if not (file := folder / "dialogues.jsonl").exists():
                with file.open("w", encoding="utf-8") as lines:
                    lines.writelines(json.dumps(row) + "\n" for row in dialogues(rows))
            print(f"{rows:,} dialogues, {file.stat().st_size / 1e6:,.0f} MB")
        print(f"{'step':10}" + "".join(f"{f'{rows:,} rows':>24}" for rows in sizes) + f"{'memory':>10}")
        for step in given.steps:
            found = []
            for rows in sizes:
                child = [sys.executable, __file__, "--child", step, str(home / str(rows))]
                found.append(
                    json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
                )
            cells = (f"{one['CPU seconds']:14.1f} s {one['MB']:5.0f} MB" for one in found)
            print(f"{step:10}" + "".join(f"{cell:>24}" for cell in cells) + f"{found[1]['MB'] / found[0]['MB']:9.2f}×")


if __name__ == "__main__":
    main()
