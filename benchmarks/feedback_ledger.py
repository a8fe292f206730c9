"""How fast verdicts that are in the ledger are read again and written out as an Arrow dataset, and in how much memory.

    python benchmarks/feedback_ledger.py [--verdicts 1000000] [--folder /tmp/…]

Makes pairs and a ledger that holds a verdict on each, then does in a fresh process what a run does that finds all of
its feedback paid for: look every pair up, export the verdicts in the order of the pairs. A second measurement
exports the raw table of answers.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make(folder: Path, count: int) -> None:
    import pyarrow as pa

    from morlaif.data.records import content_id, save_pairs
    from morlaif.feedback.chunks import PairChunks
    from morlaif.feedback.ledger import OK, Answer, Ledger

    save_pairs(folder / "respond", {"train": [], "eval": []})
    split = folder / "respond" / "pairs" / "train"
    texts = [f"a response of some length, number {i}, with words to read " * 3 for i in range(1000)]
    prompt = [{"role": "user", "content": "a question of some length " * 5}]

    def batches():
        for start in range(0, count, 1000):
            ids = [content_id(i) for i in range(start, start + 1000)]
            yield pa.record_batch({
                "id": ids, "prompt_id": ids, "messages": [prompt] * 1000,
                "first": texts, "second": texts[::-1], "human": [0.5] * 1000,
            })  # fmt: skip

    source = batches()
    head = next(source)
    with pa.OSFile(str(split / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, head.schema) as out:
        out.write_batch(head)
        for batch in source:
            out.write_batch(batch)
    state = json.loads((split / "state.json").read_text())
    state["_data_files"] = [{"filename": "data-00000-of-00001.arrow"}]
    (split / "state.json").write_text(json.dumps(state))

    judge, principle, _ = opened(folder)
    with Ledger(folder / "ledger.sqlite") as ledger:
        scope = ledger.scope(*judge._scope(principle, True))
        for chunk in PairChunks.open(folder / "respond", "train").chunks():
            with ledger.transaction():
                for i, name in enumerate(chunk.ids):
                    d = math.sin(i)
                    ledger.put_verdict(scope, name, (1 / (1 + math.exp(-d)), 0.1, d, -d, 800.0, 2.0, 1e-5))
                    key = bytes.fromhex(name) + b"verdicts"
                    ledger.put(key, "openai", "m", Answer(d, OK, 400, 1, 5e-6), "")


def opened(folder: Path):
    from morlaif.feedback.judge import open_judge
    from morlaif.feedback.settings import OpenAISettings, Principle
    from morlaif.presets import preset

    tree = preset("feedback", "openai")
    settings = OpenAISettings(**tree | {"logprobs": "always"})
    principle = Principle(name="helpfulness", question="Which helps?", description="Help.", covers=("helpfulness",))
    return open_judge(settings, ledger=folder / "ledger.sqlite", seed=0), principle, settings


def export(folder: Path) -> dict[str, float]:
    """What the stage `feedback` does, with everything in the ledger: verdicts a second, and the most memory it took."""
    import datasets  # noqa: F401  its import is no part of the work

    from morlaif.feedback.chunks import PairChunks, write_verdicts
    from morlaif.feedback.label import label_chunks
    from morlaif.feedback.quality import LabelTally

    judge, principle, _ = opened(folder)
    pairs = PairChunks.open(folder / "respond", "train")
    begun, cpu = time.monotonic(), time.process_time()
    tally = LabelTally()
    parts = label_chunks(judge, pairs, lambda _: (principle,))
    write_verdicts(folder / "out", {"train": tally.passing(pairs, parts)})
    exported, exported_cpu = time.monotonic() - begun, time.process_time() - cpu
    measured = tally.measure()
    assert measured["valid"] == len(pairs) == judge.usage.recalled and not judge.usage.requests
    return {
        "verdicts": len(pairs),
        "seconds": exported,
        "per second": len(pairs) / exported,
        "per CPU second": len(pairs) / exported_cpu,
        "seconds with label quality": time.monotonic() - begun,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def raw(folder: Path) -> dict[str, float]:
    """The table of answers as Arrow batches."""
    from morlaif.feedback.ledger import Ledger

    begun, cpu = time.monotonic(), time.process_time()
    with Ledger(folder / "ledger.sqlite") as ledger:
        rows = sum(len(batch) for batch in ledger.batches())
    seconds, busy = time.monotonic() - begun, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"answers": rows, "per second": rows / seconds, "per CPU second": rows / busy, "MB": memory}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=["make", "export", "raw"])
    options = parser.parse_args()
    if options.step:
        result = (
            make(options.folder, options.verdicts)
            if options.step == "make"
            else globals()[options.step](options.folder)
        )
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        for step in ("make", "export", "raw"):
            command = [
                sys.executable,
                __file__,
                "--step",
                step,
                "--folder",
                folder,
                "--verdicts",
                str(options.verdicts),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            if step != "make":
                print(step, {name: round(x, 1) for name, x in json.loads(done.stdout.splitlines()[-1]).items()})


if __name__ == "__main__":
    main()
