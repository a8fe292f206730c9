"""Does all of it run here, and right? Whole runs, kills, ranks and models of real shape, side by side, each with a log.

    python benchmarks/gpu/smoke.py <out folder> [--device cuda] [--only agree stages …]

`--device cpu` (the default where there is no GPU) does the same with a tiny model, to see that it starts. Each check is
a process or some one after another; its output goes to <out folder>/<check>.log, its end to <out folder>/smoke.jsonl.
"""

from __future__ import annotations

import argparse
import json
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
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
SIDE_BY_SIDE = 10  # processes; each takes one core and some GB of the GPU
LIMIT = float(os.environ.get("LIMIT", 400))  # seconds of one command

TOY = ["experiment=smoke", "hardware.workers=1"]
KINDS = ("toy_trunk", "toy_heads", "toy_conditioned", "toy_ensemble", "toy_full")
KILLED = [
    "arms.select=[morlaif]",
    "ppo.steps=8",
    "ppo.checkpoint_every=1",
    "ppo.policy.kind=lora",
    "ppo.critic.kind=adapter",
]


class Failed(Exception):
    pass


class Check:
    """One check: runs commands, whose output goes to its log."""

    def __init__(self, name: str, out: Path, scratch: Path, device: str) -> None:
        self.name, self.device, self.folder = name, device, scratch / name
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
        end = time.monotonic() + LIMIT
        while process.poll() is None:
            if time.monotonic() > end or (kill_when is not None and kill_when()):
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        return process.wait()

    def must(self, command: Sequence[str], **more: str) -> None:
        if code := self.run(command, **more):
            raise Failed(f"exit code {code}")

    def morlaif(self, *overrides: str, store: str = "store", dtype: str = "float32") -> list[str]:
        own = [f"hardware={'gpu' if self.cuda else 'cpu'}", f"hardware.dtype={dtype}"]
        where = [] if any(word.startswith("hardware=") for word in overrides) else own
        return [
            sys.executable, "-m", "morlaif", *TOY, *where, *overrides, f"paths.store={self.folder / store}",
            f"paths.runs={self.folder / 'runs'}", "tracking=local",
        ]  # fmt: skip

    def script(self, name: str, *words: str) -> list[str]:
        return [sys.executable, str(HERE / name), *words]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path)
    asked.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_gpu() else "cpu")
    asked.add_argument("--only", nargs="*", default=None)
    told = asked.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    checks = CHECKS if told.only is None else {name: CHECKS[name] for name in told.only}
    lock = threading.Lock()
    bad = []
    with tempfile.TemporaryDirectory() as scratch, (told.out / "smoke.jsonl").open("a") as lines:

        def run(name: str) -> None:
            began = time.monotonic()
            try:
                found = {"ok": True} | (checks[name](Check(name, told.out, Path(scratch), told.device)) or {})
            except Exception as error:
                reason = str(error) if isinstance(error, Failed) else traceback.format_exc()[-500:]
                found = {"ok": False, "error": reason}
            with lock:
                row = {"check": name, "device": told.device, "seconds": round(time.monotonic() - began, 1), **found}
                print(json.dumps(row), flush=True)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                if not found["ok"]:
                    bad.append(name)

        with ThreadPoolExecutor(SIDE_BY_SIDE if told.device == "cuda" else 1) as pool:
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


def killed(check: Check) -> dict[str, Any]:
    """A PPO run is killed between two of its steps, with kill -9, and goes on to the same numbers."""
    dtype = "bfloat16" if check.cuda else "float32"
    check.must(check.morlaif(*KILLED, "stages=[weigh]", store="whole", dtype=dtype))
    shutil.copytree(check.folder / "whole", check.folder / "broken")  # only PPO differs
    check.must(check.morlaif(*KILLED, "stages=[ppo]", store="whole", dtype=dtype))

    def at_work() -> bool:
        return any(check.folder.glob("broken/**/ppo/**/step-00000003.json"))

    again = check.morlaif(*KILLED, "stages=[ppo]", store="broken", dtype=dtype)
    code = check.run(again, kill_when=at_work)
    check.must(again)
    curves = [_curve(check.folder / store) for store in ("whole", "broken")]
    pairs = [pair for rows in zip(*curves, strict=True) for pair in zip(*(row.values() for row in rows), strict=True)]
    worst = max(abs(a - b) for a, b in pairs)
    ok = worst == 0 and code == -signal.SIGKILL
    return {"ok": ok, "killed": code, "steps": len(curves[0]), "largest difference": worst}


def _curve(store: Path) -> list[dict[str, float]]:
    (file, *_) = sorted(store.glob("**/curve.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


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
    "agree-rest": agree(["generate", "sft", "judge"]),
    "ranks": two_ranks,
    "killed": killed,
    "shape-lora": shape("lora,rloo"),
    "shape-full": shape("full"),
    "stages-float32": stages("float32"),
    "stages-bfloat16": stages("bfloat16"),
    **{f"kind-{preset}": kind(preset) for preset in KINDS},
}


if __name__ == "__main__":
    main()
