"""Bad inputs, each of which deserves one clear line: what becomes of them, counted by kind.

    python benchmarks/bad_inputs.py                       some of each kind, two at a time: a minute or two
    python benchmarks/bad_inputs.py --all                 all of each kind
    python benchmarks/bad_inputs.py --kind servers        all of one kind
    python benchmarks/bad_inputs.py --only 'half of'      whose name holds this
    python benchmarks/bad_inputs.py --keep /tmp/bad       leave each case's folder there, to try it by hand

It exits with 1 where one is not answered well. Most run in a fork of this process, which has imported what they need; a
few as processes of their own. What a case is, and what is checked of it, is in bad/case.py; the cases themselves in
the other files of bad/.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
for _variable in ("MORLAIF_STORE", "MORLAIF_RUNS"):
    os.environ.pop(_variable, None)
sys.path.insert(0, str(Path(__file__).parent))

from bad import further, human, keys, models, names, numbers, rows, servers, stores  # noqa: E402
from bad.case import Case, Kit  # noqa: E402
from bad.kit import finished_run, serve, tiny_model  # noqa: E402

from morlaif.launch.processes import die_with_parent  # noqa: E402

ALL: dict[str, list[Case]] = {
    kind: cases
    for part in (keys, numbers, names, rows, human, models, stores, servers, further)
    for kind, cases in part.CASES.items()
}
FAULTS: dict[str, Callable[[Outcome], bool]] = {
    "tracebacks": lambda o: any("traceback" in wrong or "foreseen" in wrong for wrong in o.wrong),
    "hangs": lambda o: any(wrong.startswith("hung") for wrong in o.wrong),
    "silent successes": lambda o: o.code == 0 != o.case.code,
    "wrong exit codes": lambda o: any(wrong.startswith("exit ") for wrong in o.wrong),
}
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST = 700  # characters of a line
SOME = 8  # of each kind, where not all are asked for


@dataclass
class Running:
    kind: str
    case: Case
    folder: Path
    pid: int
    began: float


@dataclass(frozen=True)
class Outcome:
    kind: str
    case: Case
    wrong: tuple[str, ...]  # empty: answered well
    said: str
    seconds: float
    code: int | None  # of its exit; None: it ran past its limit


def start(kind: str, case: Case, folder: Path, kit: Kit) -> Running:
    """Lay down the case's files and run its command, in a fork or a process of its own."""
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    if case.prepare is not None:
        case.prepare(folder, kit)
    arguments = [word.replace("SERVER", kit.server) for word in case.arguments]
    sys.stdout.flush()  # or the fork would write it again
    pid = os.fork()
    if pid == 0:
        _child(case, arguments, folder)
    return Running(kind, case, folder, pid, time.monotonic())


def _child(case: Case, arguments: Sequence[str], folder: Path) -> None:
    """Never returns."""
    os.setsid()
    die_with_parent()
    os.chdir(folder)
    for stream, number in (("out", 1), ("err", 2)):
        file = os.open(folder.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace", closefd=False) for number in (1, 2))
    tempfile.tempdir = str(folder.parent)
    for name, value in case.environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    sys.path[:0] = [path for path in (case.environment.get("PYTHONPATH") or "").split(os.pathsep) if path]
    code = 70
    try:
        if case.real:
            code = subprocess.run([sys.executable, "-m", "morlaif", *arguments], check=False).returncode
        else:
            from morlaif.cli import main

            sys.argv = ["morlaif", *arguments]
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def faults(case: Case, folder: Path, code: int | None) -> Iterator[str]:
    """What of an answer is not as it should be; `code` is None where the case ran past its limit."""
    out, err = (folder.with_suffix(f".{stream}").read_text(errors="replace") for stream in ("out", "err"))
    if code is None:
        yield f"hung for {case.limit:g} s"
    elif code != case.code:
        yield f"exit {code} instead of {case.code}"
    if "Traceback (most recent call last)" in out + err:
        yield "a traceback"
    if "the traceback is in" in err:
        yield "an error that nobody has foreseen"
    lines = [line for line in err.splitlines() if line.strip()]
    if not lines and code != 0:
        yield "not a word on standard error"
    if len(lines) > case.lines:
        yield f"{len(lines)} lines on standard error instead of {case.lines}"
    if case.lines < 5 and (others := [line for line in lines if not line.startswith("morlaif: ")]):
        yield f"a line of somebody else: {others[0][:80]!r}"
    if STEERING.search(out + err):
        yield "characters that steer a terminal"
    if (longest := max((len(line) for line in lines), default=0)) > LONGEST:
        yield f"a line of {longest:,} characters"
    for want in case.wants:
        if not re.search(want, err):
            yield f"nothing of /{want}/"
    built = {path.parts[-3] for path in (folder / "store").glob("*/*/manifest.json")} if code != 0 else set()
    if over := built - case.built - ({"evaluate", "report"} if (folder / "runs" / "finished").is_dir() else set()):
        yield f"built {', '.join(sorted(over))}"
    for record in (folder / "runs").glob("*/run.json"):
        if record.parent.name != "finished" and record.is_file() and '"status": "succeeded"' in record.read_text():
            yield "a run that is called a success"
    if (folder / "runs" / "finished" / "human.json").exists():
        yield "ratings were imported"
    if (folder / "ran").exists():
        yield "foreign code ran"


def finish(running: Running, status: int | None) -> Outcome:
    code = None if status is None else os.waitstatus_to_exitcode(status)
    wrong = tuple(faults(running.case, running.folder, code))
    said = running.folder.with_suffix(".err").read_text(errors="replace")
    return Outcome(running.kind, running.case, wrong, said, time.monotonic() - running.began, code)


def run_all(chosen: Sequence[tuple[str, Case]], kit: Kit, root: Path, jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come."""
    waiting, at_work = list(enumerate(chosen)), list[Running]()
    while waiting or at_work:
        while waiting and len(at_work) < jobs:
            number, (kind, case) = waiting.pop(0)
            at_work.append(start(kind, case, root / f"{number:03d}", kit))
        for running in list(at_work):
            pid, status = os.waitpid(running.pid, os.WNOHANG)
            over = time.monotonic() - running.began > running.case.limit
            if pid or over:
                if over and not pid:
                    os.killpg(running.pid, signal.SIGKILL)
                    os.waitpid(running.pid, 0)
                at_work.remove(running)
                yield finish(running, status if pid else None)
        time.sleep(0.01)


def prepare(root: Path) -> tuple[Kit, int]:
    """The kit, and the process of its server, which was forked before any library has threads."""
    pid, address = serve()
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import openai  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import morlaif.cli
    import morlaif.config
    import morlaif.pipeline.run
    import morlaif.stages.work.data
    import morlaif.stages.work.feedback  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # forks then copy fewer pages
    return Kit(tiny_model(root / "model"), finished_run(root / "run"), address), pid


def chosen_of(kinds: Sequence[str] | None, holding: str, every: bool) -> list[tuple[str, Case]]:
    """Cases by what the command line asks for."""
    found = {kind: [case for case in cases if holding in case.name] for kind, cases in ALL.items()}
    most = None if every or kinds or holding else SOME
    return [(kind, case) for kind, cases in found.items() if not kinds or kind in kinds for case in cases[:most]]


def tell(outcome: Outcome) -> None:
    """One that was not answered well."""
    print(f"{outcome.kind}: {outcome.case.name}   ({outcome.seconds:.1f} s)")
    print(f"  {STEERING.sub('?', ' '.join(('morlaif', *outcome.case.arguments)))[:200]}")
    for wrong in outcome.wrong:
        print(f"  - {wrong}")
    for line in outcome.said.splitlines()[-3:]:
        print(f"  | {STEERING.sub('?', line)[:300]}")
    print(flush=True)


def count(outcomes: Sequence[Outcome], seconds: float) -> None:
    """How many of each kind."""
    passed, failed = Counter(o.kind for o in outcomes if not o.wrong), Counter(o.kind for o in outcomes if o.wrong)
    print(f"{'kind':<22}{'cases':>7}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        spent = sum(outcome.seconds for outcome in outcomes if outcome.kind == kind)
        print(f"{kind:<22}{passed[kind] + failed[kind]:>7}{passed[kind]:>8}{failed[kind]:>8}{spent:>9.1f}")
    print(f"{'all':<22}{len(outcomes):>7}{passed.total():>8}{failed.total():>8}{seconds:>9.1f}")
    own, children = os.times()[:2], os.times()[2:4]
    print(f"processor: {sum(own) + sum(children):.0f} s")
    print(", ".join(f"{sum(fits(o) for o in outcomes)} {name}" for name, fits in FAULTS.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help=f"all cases; without it {SOME} of each kind")
    parser.add_argument("--kind", action="append", choices=list(ALL), help="cases of this kind; may be repeated")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--keep", type=Path, help="an empty or new folder for the cases' folders")
    given = parser.parse_args()
    chosen = chosen_of(given.kind, given.only, given.all)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="morlaif-bad-") as temporary:
        root = given.keep or Path(temporary)
        kit, server = prepare(root)
        try:
            outcomes = []
            for outcome in run_all(chosen, kit, root, given.jobs):
                outcomes.append(outcome)
                if outcome.wrong:
                    tell(outcome)
        finally:
            os.kill(server, signal.SIGTERM)
            os.waitpid(server, 0)
    count(outcomes, time.monotonic() - began)
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
