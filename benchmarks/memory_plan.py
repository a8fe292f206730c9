"""The plan's memory beside measured peaks, for sft, pm and ppo, on a CPU.

    python benchmarks/memory_plan.py toy
    python benchmarks/memory_plan.py gpt2
    python benchmarks/memory_plan.py gpt2 ranks     # two ranks under ZeRO-3: the one that took most

Each stage runs as `morlaif stages=[<stage>]` in a process of its own, on dialogues long enough to fill `max_length`, as
the plan assumes. Measured: the process's peak resident memory, less that of the same stage with a model and batches as
small as they get, which is Python, its libraries and what they set up. The plan is that of the same config.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = [
    "data=jsonl", "respond=pairs", "principles=human", "feedback=human", "arms.select=[morlaif]",
    "sft.log_every=1", "sft.max_steps=2", "sft.gradient_checkpointing=false",
    "ppo.steps=1", "ppo.rollouts=8", "ppo.generation_batch_size=8", "ppo.epochs=2", "ppo.minibatches=1",
    "ppo.samples=0", "ppo.eval_prompts=8", "ppo.eval_every=0", "ppo.keep=last", "ppo.shaping.constant_score=allow",
]  # fmt: skip
SMALLEST = [
    "model=toy",
    "model.scratch.hidden_size=8",
    "model.scratch.layers=1",
    "model.scratch.heads=1",
    "model.scratch.intermediate_size=8",
    "model.scratch.vocab_size=300",
    "model.scratch.max_positions=512",
    "sft=toy",
    "sft.batch_size=2",
    "sft.max_length=16",
    "pm=toy_full",
    "pm.epochs=1",
    "pm.batch_size=2",
    "pm.max_length=16",
    "ppo.rollouts=2",
    "ppo.generation_batch_size=2",
    "ppo.max_prompt_length=8",
    "ppo.max_new_tokens=4",
    "ppo.micro_batch_size=2",
    "ppo.policy.kind=full",
    "ppo.eval_prompts=2",
]
CASES = {
    "toy": [
        "sft.batch_size=32", "sft.max_length=256", "pm=toy_full", "pm.batch_size=16", "pm.max_length=256",
        "ppo.rollouts=64", "ppo.generation_batch_size=64", "ppo.max_prompt_length=256", "ppo.max_new_tokens=80",
        "ppo.micro_batch_size=32",
    ],
    "gpt2": [
        "model=gpt2", "sft=full", "sft.batch_size=4", "sft.micro_batch_size=4", "sft.max_length=128",
        "sft.gradient_checkpointing=false", "pm=lora", "pm.joint=1", "pm.batch_size=4", "pm.micro_batch_size=4",
        "pm.max_length=128", "ppo.max_prompt_length=96", "ppo.max_new_tokens=32", "ppo.micro_batch_size=8",
        "ppo.policy.kind=full",
    ],
}  # fmt: skip
PEAK = re.compile(r"peak memory: ([\d.]+) GB resident")
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=6)) for i in range(1500)]


def main() -> None:
    case, ranks = sys.argv[1], sys.argv[2:] == ["ranks"]
    if len(sys.argv) > 2 and not ranks:
        measure(sys.argv[2:])
        return
    where = "hardware=cpu2_zero3" if ranks else "hardware.workers=1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pm = ["pm=toy"] if ranks and case == "toy" else []  # whole preference models learn in one process
        common = [*COMMON, where, f"data.path={folder / 'long.jsonl'}", f"paths.runs={folder / 'runs'}"]
        overrides = [*common, *CASES[case], *pm, f"paths.store={folder / 'store'}"]
        write_dialogues(folder / "long.jsonl")
        if case == "gpt2":
            write_gpt2(folder / "gpt2")
            overrides.append(f"model.path={folder / 'gpt2'}")
        least = [*common, *SMALLEST, *(["pm=toy"] if ranks else []), f"paths.store={folder / 'least'}"]
        print(f"{case}{', each of two ranks' if ranks else ''}: MB above the smallest run")
        print(f"{'stage':<6}{'plan':>8}{'measured':>10}{'plan / measured':>17}")
        for stage, before in (("sft", "data"), ("pm", "feedback"), ("ppo", "weigh")):
            peaks = []
            for which in (least, overrides):
                run(case, [*which, f"stages=[{before}]"])  # in another process: the measured one builds one unit
                planned, peak = run(case, [*which, f"stages=[{stage}]"])
                peaks.append((planned[stage], peak))
            plan, measured = (peaks[1][i] - peaks[0][i] for i in (0, 1))
            print(f"{stage:<6}{plan / 1e6:>8.0f}{measured / 1e6:>10.0f}{plan / measured:>17.2f}", flush=True)


def run(case: str, overrides: list[str]) -> tuple[dict[str, float], float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, case, *overrides], capture_output=True, text=True, env=environment
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["plan"], found["measured"]


def measure(overrides: list[str]) -> None:
    """One `morlaif` command in this process; prints what its plan says and what it took."""
    import resource

    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    import morlaif.cli as cli
    from morlaif.compose import register
    from morlaif.config import validate
    from morlaif.pipeline.resources import stage_memories
    from morlaif.planning.plan import plan

    register()
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        config = validate(OmegaConf.to_container(compose("config", overrides), resolve=True))
    memories = {memory.stage: memory.device for memory in stage_memories(config, plan(config))}

    for stage in ("data", "sft", "respond", "feedback", "pm", "weigh", "ppo"):
        __import__(f"morlaif.stages.work.{stage}")
    sys.argv = ["morlaif", *overrides]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if config.hardware.ranks > 1:
        run_folder = max(Path(config.paths.runs).iterdir(), key=lambda path: path.stat().st_mtime)
        logs = [log.read_text() for log in run_folder.glob("logs/*.rank-*.log")]
        peak = max((float(found[1]) * 1e9 for log in logs if (found := PEAK.search(log))), default=peak)
    print(json.dumps({"plan": memories, "measured": peak}))


def write_dialogues(path: Path) -> None:
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words))

    rows = [{"prompt": text(300), "chosen": text(150), "rejected": text(150)} for _ in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_gpt2(folder: Path) -> None:
    """GPT-2 small's shape with random weights, and a small tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from morlaif.models.scratch import train_tokenizer

    tokenizer = train_tokenizer(WORDS, 2048)
    shape = GPT2Config(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
