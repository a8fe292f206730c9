"""Peak memory: twelve `lora` preference models against one base model, and PPO on one base against separate models.

    python benchmarks/pm_memory.py bank        GPT-2-small shape, random weights
    python benchmarks/pm_memory.py ppo         the toy pipeline, its model widened (--hidden 64 --layers 2: as it is)

Each side is a process of its own. `weights` counts the parameters' storages, each once; `peak` is the highest resident
memory above what the same process held after its imports.

bank: a base that scores 16 × 128 tokens, and twelve adapters on one that score the same, as many at once on both sides.
ppo: stage `ppo` as the pipeline runs it, all it needs built before: LoRA policy, its base as reference, a value head
on its trunk and twelve `lora` preference models on the same base; against a whole policy, a copy for the reference, a
whole critic and twelve whole preference models.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = {
    "shared": ["ppo.policy.kind=lora", "ppo.critic.kind=shared", "pm=toy", "pm.epochs=1"],
    "separate": ["ppo.policy.kind=full", "ppo.critic.kind=separate", "pm=toy_full", "pm.epochs=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["bank", "ppo", "one", "twelve", "stage"])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    given, rest = parser.parse_known_args()
    match given.what:
        case "one" | "twelve":
            score(given.what, Path(rest[0]))
        case "stage":
            stage(rest)
        case _:
            with tempfile.TemporaryDirectory() as folder:
                sides = bank(Path(folder)) if given.what == "bank" else ppo(Path(folder), given.hidden, given.layers)
            (first, one), (second, other) = sides.items()
            for name, (weights, peak) in sides.items():
                print(f"{name:<10} weights {weights / 1e6:9.1f} MB   peak {peak / 1e6:9.1f} MB")
            print(f"{first} / {second}: weights {one[0] / other[0]:.3f}, peak {one[1] / other[1]:.3f}")


def bank(folder: Path) -> dict[str, tuple[int, int]]:
    save(folder)
    return {which: child(which, str(folder)) for which in ("twelve", "one")}


def save(folder: Path) -> None:
    """A base and twelve trained-looking adapters, in a process of their own: this one's memory is of no interest."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from pm_memory import write
write(Path({str(folder)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def write(folder: Path) -> None:
    from pm_common import random_adapter, save_base

    from morlaif.models.adapters import adapter_hash, read_adapter, write_adapter
    from morlaif.models.load import load_tokenizer
    from morlaif.models.settings import LoRASettings
    from morlaif.preference.model import fingerprint, load_classifier
    from morlaif.preference.report import PMReport

    save_base("gpt2", folder / "base")
    tokenizer = load_tokenizer(folder / "base")
    model = load_classifier(folder / "base", tokenizer)
    lora = LoRASettings(r=8, alpha=8, dropout=0.0, target_modules="all-linear")
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    for k in range(12):
        out = folder / str(k)
        write_adapter(out / "model", random_adapter(model, 8, k), lora, model, str(folder / "base"), None)
        PMReport(
            principle=str(k), text=None, kind="lora", pooling="last", max_length=256, max_prompt=128,
            base={"path": str(folder / "base"), "revision": None, "own": True, "fingerprint": fingerprint(model)},
            adapter=adapter_hash(read_adapter(out / "model", str(k))), accuracy=nothing, length_baseline=nothing,
            length_correlation=None, brier=None, ece=None, train_loss=0.0, pairs={}, cut={}, first_preferred=None,
            steps=0, together=[],
        ).save(out)  # fmt: skip


def score(which: str, folder: Path) -> None:
    import torch
    from pm_common import in_parts

    from morlaif.models.load import load_tokenizer
    from morlaif.preference.bank import PreferenceBank
    from morlaif.preference.lora import forward_tokens
    from morlaif.preference.model import PaddedBatch, load_classifier, score_batch

    before = resident()
    ids, full = torch.randint(5, 250, (16, 128)), torch.full((16,), 128)
    batch = PaddedBatch(ids, full // 2, full)
    with torch.no_grad():
        if which == "one":
            model = load_classifier(folder / "base", load_tokenizer(folder / "base"))
            in_parts(lambda part: score_batch(model, part, "last"), batch, forward_tokens(model) // 128)
            modules = [model]
        else:
            made = PreferenceBank.load({str(k): folder / str(k) for k in range(12)})
            (reader,) = made._readers
            in_parts(reader.scorer.score, batch, reader.tokens // 128)
            modules = list(made.modules())
    tell({weight for module in modules for weight in module.parameters()}, before)


def ppo(folder: Path, hidden: int, layers: int) -> dict[str, tuple[int, int]]:
    shape = [
        f"model.scratch.hidden_size={hidden}", f"model.scratch.intermediate_size={3 * hidden}",
        f"model.scratch.layers={layers}", "model.scratch.init_std=0.02", "sft.max_steps=2", "sft.learning_rate=1e-4",
        "principles.count=12", "arms.select=[morlaif]", "weights.prompts=8",
        "hardware.workers=1", f"paths.store={folder / 'store'}", f"paths.runs={folder / 'runs'}",
    ]  # fmt: skip
    results = {}
    for side, own in SIDES.items():
        arguments = ["experiment=smoke", *shape, *own]
        subprocess.run(
            [sys.executable, "-m", "morlaif", *arguments, "stages=[weigh]"], check=True, stdout=subprocess.DEVNULL
        )
        results[side] = child("stage", *arguments, "stages=[ppo]")
    return results


def stage(arguments: list[str]) -> None:
    import morlaif.stages.work.ppo as stage_ppo
    from morlaif.cli import main as cli

    weights: set = set()
    run = stage_ppo.PPOTrainer.run

    def counted(self, *args, **kwargs):
        from torch import nn

        found = [one for one in gc.get_objects() if isinstance(one, nn.Parameter)]
        weights.update(found)
        return run(self, *args, **kwargs)

    stage_ppo.PPOTrainer.run = counted
    before = resident()
    sys.argv = ["morlaif", *arguments]
    try:
        cli()
    except SystemExit as end:
        if end.code:
            raise
    tell(weights, before)


def tell(weights, before: int) -> None:
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in weights if not w.is_meta}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print("\n" + json.dumps([sum(storages.values()), peak]))


def child(*arguments: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    weights, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return weights, peak


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


if __name__ == "__main__":
    main()
