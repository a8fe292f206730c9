"""`morlaif …` in a process of its own, as a user runs it, without paying for the imports of libraries each time.

Processes are forked from the server of `processes`, which has imported the libraries and done nothing else. Variables
that a library reads when it is imported are those of the server: whoever needs others starts a process as usual.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import processes


def morlaif(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `morlaif` to its end; `env` adds to the environment. Raises TimeoutExpired when it is late; it is killed.

    Its workers and ranks are forked too (`warm`).
    """
    run = Run(arguments, cwd, env, warm=True)
    try:
        out, err = run.communicate(timeout)
    finally:
        run.kill()
    assert run.returncode is not None
    return subprocess.CompletedProcess([*arguments], run.returncode, out, err)


class Run:
    """A run that goes on: what tests need of `subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None,
        group: bool = False, warm: bool = False,
    ):  # fmt: skip
        """`group`: in a process group of its own. `warm`: what it starts is forked too."""
        self.folder = tempfile.TemporaryDirectory(prefix="morlaif-run-")
        environment = {**os.environ, "COLUMNS": "80", **(env or {})}
        self.process = processes.context().Process(
            target=_run, args=([*arguments], str(cwd), environment, self.folder.name, group, warm)
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("morlaif", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, when it has ended."""
        self.wait(timeout)
        out, err = (Path(self.folder.name, name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], cwd: str, environment: dict[str, str], folder: str, group: bool, warm: bool) -> None:
    """What `python -m morlaif` does, with its streams in files."""
    gc.freeze()  # as in `processes`
    if group:
        os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # pytest may itself run where they are ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["morlaif", *arguments]
    for number, name in ((0, os.devnull), (1, f"{folder}/out"), (2, f"{folder}/err")):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "r" if number == 0 else "w") for number in range(3))
    if warm:
        import warm as forking

        forking.install()
    from morlaif.__main__ import main

    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
