"""Does all of it run here, and right? Whole runs, kills, ranks and models of real shape, side by side, each with a log.

    python benchmarks/gpu/smoke.py <out folder> [--device cuda] [--only killed-ppo stages-float32 …] [--seconds 200]

`--device cpu` (the default where there is no GPU) does the same with a tiny model, to see that it starts. Each check is
a process or some one after another; its output goes to <out folder>/<check>.log, its end to <out folder>/smoke.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
SIDE_BY_SIDE = 10  # processes; each takes one core and some GB of the GPU
LIMIT = float(os.environ.get("LIMIT", 400))  # seconds of one command

TOY = ["experiment=smoke", "hardware.workers=1"]
KINDS = ("toy_trunk", "toy_heads", "toy_conditioned", "toy_ensemble", "toy_full")
ONE_ARM = ["arms.select=[morlaif]", "principles.count=2"]
# By stage: what is trained, and what shows that it is in the middle of it. Dropout draws from the noise states.
KILLED = {
    "pm": (
        ["pm=toy", "pm.lora.dropout=0.1", "pm.checkpoint_every=2", "pm.joint=2"],
        "**/pm/**/*step*4*",
    ),
    "ppo": (
        ["ppo.steps=8", "ppo.checkpoint_every=1", "ppo.policy.kind=lora", "ppo.critic.kind=adapter"],
        "**/ppo/**/step-00000003.json",
    ),
}  # fmt: skip
BEFORE = {"sft": "data", "pm": "sft,feedback", "ppo": "weigh"}  # up to where both runs share what is built


class Failed(Exception):
    pass


class Check:
    """One check: runs commands, whose output goes to its log."""

    def __init__(self, name: str, out: Path, scratch: Path, device: str, until: float = math.inf) -> None:
        """`until`: of `time.monotonic()`; whatever still runs then is killed."""
        self.name, self.device, self.folder, self.until = name, device, scratch / name, until
        self.folder.mkdir(parents=True)
        self.log: IO[str] = (out / f"{name}.log").open("w")
        self.cuda = device == "cuda"

    def run(self, command: Sequence[str], kill_when: Callable[[], bool] | None = None, **more: str) -> int:
        """Its exit code. `kill_when`: SIGKILL as soon as it is true."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self.log.write(f"$ {' '.join(command)}\n")
        self.log.flush()
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment | more, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        end = min(time.monotonic() + LIMIT, self.until)
        while process.poll() is None:
            late = time.monotonic() > end
            if late or (kill_when is not None and kill_when()):
                os.killpg(process.pid, signal.SIGKILL)
            if late:
                process.wait()
                raise Failed("out of time")
            time.sleep(0.02)
        return process.wait()

    def must(self, command: Sequence[str], **more: str) -> None:
        if code := self.run(command, **more):
            raise Failed(f"exit code {code}")

    def own(self, *overrides: str, store: str) -> list[str]:
        """A run whose overrides say all but where its folders are."""
        return [
            sys.executable, "-m", "morlaif", *overrides, f"paths.store={self.folder / store}",
            f"paths.runs={self.folder / 'runs'}", "tracking=local",
        ]  # fmt: skip

    def morlaif(self, *overrides: str, store: str = "store", dtype: str = "float32") -> list[str]:
        own = [f"hardware={'gpu' if self.cuda else 'cpu'}", f"hardware.dtype={dtype}"]
        where = [] if any(word.startswith("hardware=") for word in overrides) else own
        return self.own(*TOY, *where, *overrides, store=store)

    def script(self, name: str, *words: str) -> list[str]:
        return [sys.executable, str(HERE / name), *words]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path, nargs="?", default=Path("gpu-results"))
    asked.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_gpu() else "cpu")
    asked.add_argument("--only", nargs="*", choices=list(CHECKS), default=None)
    asked.add_argument("--seconds", type=float, default=math.inf, help="after which what still runs is killed")
    asked.add_argument("--list-without-shapes", action="store_true", help="names of the checks, for figures to follow")
    args = asked.parse_args()
    if args.list_without_shapes:
        print(*(name for name in CHECKS if name not in SHAPES))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    usual = CHECKS if args.device == "cuda" else ON_A_CPU
    checks = {name: CHECKS[name] for name in (usual if args.only is None else args.only)}
    until = time.monotonic() + args.seconds
    lock = threading.Lock()
    bad = []
    with tempfile.TemporaryDirectory() as scratch, (args.out / "smoke.jsonl").open("a") as lines:

        def run(name: str) -> None:
            began = time.monotonic()
            try:
                found = {"ok": True} | (checks[name](Check(name, args.out, Path(scratch), args.device, until)) or {})
            except Exception as error:
                reason = str(error) if isinstance(error, Failed) else traceback.format_exc()[-500:]
                found = {"ok": False, "error": reason}
            with lock:
                row = {
                    "check": name,
                    "device": args.device,
                    "seconds": round(time.monotonic() - began, 1),
                    **found,
                }
                print(json.dumps(row), flush=True)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                if not found["ok"]:
                    bad.append(name)

        with ThreadPoolExecutor(SIDE_BY_SIDE if args.device == "cuda" else 2) as pool:
            list(pool.map(run, checks))
    print(f"{len(checks) - len(bad)} of {len(checks)} checks passed" + (f"; failed: {', '.join(bad)}" if bad else ""))
    sys.exit(bool(bad))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- the checks, longest first ---


def agree(part: Sequence[str]) -> Callable[[Check], dict[str, Any] | None]:
    def run(check: Check) -> dict[str, Any]:
        code = check.run(check.script("agree.py", str(check.folder), "--device", check.device, "--only", *part))
        rows = [json.loads(line) for line in (check.folder / "agree.jsonl").read_text().splitlines()]
        (Path(check.log.name).parent / f"{check.name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        failed = [row["check"] for row in rows if not row["ok"]]
        return {"ok": code == 0, "of": len(rows), "failed": failed}

    return run


def stages(dtype: str) -> Callable[[Check], None]:
    """Every stage, to the report."""

    def run(check: Check) -> dict[str, Any]:
        check.must(check.morlaif("stages=all", dtype=dtype))
        (results,) = check.folder.glob("runs/*/results.json")
        (report,) = check.folder.glob("runs/*/report.html")
        return {"results": len(json.loads(results.read_text())), "report bytes": report.stat().st_size}

    return run


def kind(preset: str) -> Callable[[Check], None]:
    def run(check: Check) -> None:
        rest = ["pm.top=0.5"] if preset == "toy_trunk" else []
        check.must(check.morlaif(f"pm={preset}", *rest, "stages=[ppo]", dtype="bfloat16"))

    return run


def killed(stage: str) -> Callable[[Check], dict[str, Any]]:
    """A stage is killed in the middle of its training, with kill -9; the same command ends with the same weights."""

    def run(check: Check) -> dict[str, Any]:
        dtype = "bfloat16" if check.cuda else "float32"
        words, marker = _adapter_sft(check) if stage == "sft" else KILLED[stage]

        def command(last: str, store: str) -> list[str]:
            if stage == "sft":
                return check.own(*words, f"stages=[{last}]", store=store)
            return check.morlaif(*ONE_ARM, *words, f"stages=[{last}]", store=store, dtype=dtype)

        check.must(command(BEFORE[stage], "whole"))
        shutil.copytree(check.folder / "whole", check.folder / "broken")  # only this stage differs
        check.must(command(stage, "whole"))

        def at_work() -> bool:
            return any((check.folder / "broken").glob(marker))

        code = check.run(command(stage, "broken"), kill_when=at_work)
        check.must(command(stage, "broken"))
        one, other = (_weights(check.folder / store, stage) for store in ("whole", "broken"))
        unlike = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
        ok = bool(one) and not unlike and code == -signal.SIGKILL
        return {"ok": ok, "killed": code, "files": len(one), "unlike": unlike}

    return run


def _adapter_sft(check: Check) -> tuple[list[str], str]:
    """Words of an SFT with dropout: of an adapter, which the toy model has none of, on a tiny model of Qwen's kind."""
    import figures
    import made

    model, data, size = check.folder / "model", check.folder / "pairs.jsonl", figures.SMALL
    made.write_model("tiny", model, "cpu")
    made.write_dialogues(data, size.pairs + 16, size.length // 2, size.length // 2)
    words = figures.overrides(replace(size, steps=7), model, data, check.device)
    other = ("sft=", "sft.checkpoint_every=", "stages=", "tracking=")
    own = ["sft=lora", "sft.lora.dropout=0.1", "sft.checkpoint_every=2"]
    return [*own, *(word for word in words if not word.startswith(other))], "**/sft/**/checkpoint-4/*"


def _weights(store: Path, stage: str) -> dict[str, str]:
    """Name and hash of each file of weights that the stage's finished units hold."""
    units = [manifest.parent for manifest in store.glob(f"{stage}/*/*/manifest.json")]
    units += [manifest.parent for manifest in store.glob(f"{stage}/*/manifest.json")]
    files = [file for unit in units for file in sorted(unit.rglob("*.safetensors"))]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def shape(policy: str) -> Callable[[Check], dict[str, Any]]:
    """One step of PPO with a model of real shape and a vocabulary of 151,936, its PMs and a local judge."""

    def run(check: Check) -> dict[str, Any]:
        size = "0.5b" if check.cuda else "tiny"
        words = ["--smoke", "--shape", size, "--policy", *policy.split(","), "--device", check.device]
        check.must(check.script("figures.py", str(check.folder), *words))
        rows = [json.loads(line) for line in (check.folder / "figures.jsonl").read_text().splitlines()]
        errors = [row["error"] for row in rows if "error" in row]
        if errors:
            raise Failed(errors[0])
        return {"parts": [row["what"] for row in rows if "what" in row]}

    return run


def two_ranks(check: Check) -> None:
    """Two ranks under accelerate, DeepSpeed's ZeRO-3 and NCCL (gloo on a CPU), as the launcher starts them.

    On one GPU: NCCL takes the ranks for two machines, which it lets share one, and both find the GPU at place 0.
    """
    where, more = [], {}
    if check.cuda:
        where = ["hardware.device=cuda", "hardware.dtype=bfloat16"]
        (check.folder / "sitecustomize.py").write_text(
            "import os\n"
            "if 'RANK' in os.environ and 'LOCAL_RANK' in os.environ:\n"
            "    os.environ.update(NCCL_HOSTID='machine-' + os.environ['RANK'], LOCAL_RANK='0')\n"
        )
        more = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_DEBUG": "WARN", "NCCL_IB_DISABLE": "1",
                "PYTHONPATH": f"{check.folder}:{os.environ.get('PYTHONPATH', '')}"}  # fmt: skip
    try:
        few = ["stages=[ppo]", "arms.select=[morlaif]", "principles.count=2", "ppo.policy.kind=lora"]
        check.must(check.morlaif("hardware=cpu2_zero3", *where, *few), **more)
    finally:
        for file in sorted(check.folder.glob("runs/*/logs/*")):
            check.log.write(f"--- {file.name}\n{file.read_text(errors='replace')[-6000:]}\n")


CHECKS: dict[str, Callable[[Check], dict[str, Any] | None]] = {
    "agree-ppo": agree(["ppo"]),
    "agree-pm": agree(["pm"]),
    "agree-rest": agree(["sft", "judge"]),
    "agree-sample": agree(["generate"]),
    "ranks": two_ranks,
    "killed-ppo": killed("ppo"),
    "killed-pm": killed("pm"),
    "killed-sft": killed("sft"),
    "shape-lora": shape("lora,rloo"),
    "shape-full": shape("full"),
    "stages-float32": stages("float32"),
    "stages-bfloat16": stages("bfloat16"),
    **{f"kind-{preset}": kind(preset) for preset in KINDS},
}
ON_A_CPU = ("stages-float32", "killed-pm", "killed-ppo")  # enough to see that the script starts, in three minutes
SHAPES = ("shape-lora", "shape-full")  # which figures.py does too


if __name__ == "__main__":
    main()
