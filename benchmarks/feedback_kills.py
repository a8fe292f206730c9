"""Twenty times `kill -9` at random moments, against a rate-limited server that counts.

    python benchmarks/feedback_kills.py [--kills 20] [--pairs 1000] [--seed 0]

The ideal is one request for each question. Printed: requests beyond it, answers given twice, and whether the labels
are those of an unbroken run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from feedback_throughput import PRINCIPLE, counts, make_pairs, server, settings_for

from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label_with
from morlaif.feedback.settings import OpenAISettings


def client(settings: OpenAISettings, ledger: Path, pairs: int) -> list:
    judge = open_judge(settings, ledger=ledger, seed=0)
    return label_with(judge, make_pairs(pairs), lambda _: (PRINCIPLE,))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        settings, ledger = options.child
        client(OpenAISettings.model_validate_json(settings), Path(ledger), options.pairs)
        return
    rng = random.Random(options.seed)
    with server(0.1, options.limit) as url, tempfile.TemporaryDirectory() as folder:
        settings = settings_for(url, requests_per_minute=options.limit, concurrency=16)
        command = [sys.executable, __file__, "--pairs", str(options.pairs), "--child", settings.model_dump_json()]
        killed = 0
        for _ in range(options.kills):
            process = subprocess.Popen([*command, f"{folder}/ledger.sqlite"], start_new_session=True)
            time.sleep(rng.uniform(1.0, 3.5))  # from before its first request to well among them
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
        broken = client(settings, Path(folder) / "ledger.sqlite", options.pairs)
        tally = counts(url, reset=True)
        ideal = 2 * options.pairs
        print(f"{killed} kills: {tally['received']} requests, {tally['received'] - ideal} beyond the ideal of {ideal}; "
              f"{tally['refused']} refused, {tally['twice']} answered twice")  # fmt: skip
        unlimited = settings.model_copy(update={"requests_per_minute": None})
    with server(0.0) as url, tempfile.TemporaryDirectory() as folder:
        fresh = unlimited.model_copy(update={"base_url": f"{url}/v1"})
        unbroken = client(fresh, Path(folder) / "ledger.sqlite", options.pairs)
    print(f"labels as in an unbroken run: {broken == unbroken}")


if __name__ == "__main__":
    main()
