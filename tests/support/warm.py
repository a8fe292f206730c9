"""Workers, nodes and ranks that a run starts, forked from a process that has imported the libraries already.

After `install()`, `subprocess.Popen` forks where the command is `python -m morlaif.launch.…`. The child has the same
parent, arguments, environment and streams as a new Python would; only the imports, some 7 CPU seconds of a rank, are
those of the parent. It is for processes of `processes.context()`, which have imported everything and done nothing yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any

PREFIX = "morlaif.launch."
FRESH = subprocess.Popen
KEPT: list[Any] = []


class _Forked(FRESH):
    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Sequence[int], cwd: Any, env: Any,
        startupinfo: Any, creationflags: Any, shell: bool, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int,
        errread: int, errwrite: int, *more: Any,
    ) -> None:  # fmt: skip
        module = _module(args)
        if module is None:
            given = (
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *more,
            )  # fmt: skip
            super()._execute_child(*given)
            return
        *_, start_new_session, _ = more
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(module, args, env, (p2cread, c2pwrite, errwrite), start_new_session)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def install() -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess.Popen = subprocess_handler.Popen = _Forked  # type: ignore[misc]


def _module(args: Any) -> str | None:
    """The module of `python [-u] -m module …`, where it is one of ours."""
    words = [*args] if isinstance(args, list | tuple) else []
    if words and words[0] == sys.executable and "-m" in words[:3]:
        module = words[words.index("-m") + 1]
        return module if module.startswith(PREFIX) else None
    return None


def _become(module: str, args: Sequence[str], env: Any, streams: Sequence[int], start_new_session: bool) -> None:
    """Run the module as a new process would: its streams alone are open, signals are as at the start."""
    code = 1
    gc.freeze()  # as in `processes`
    try:
        _name(f"{module.removeprefix(PREFIX)}-{(env or os.environ).get('RANK', '')}")
        if start_new_session:
            os.setsid()
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        for number, given in enumerate(streams):
            if given != -1:
                os.dup2(given, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        KEPT.extend([sys.stdin, sys.stdout, sys.stderr])  # whose end would close the new ones' numbers
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", closefd=False) for n in range(3))
        sys.argv = [module, *args[args.index(module) + 1 :]]
        for name in [name for name in sys.modules if name == module]:
            del sys.modules[name]  # as its own main module it is new
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _name(words: str) -> None:
    """What /proc/<pid>/comm says, since the command line there is that of the process it was forked from."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(15, words.encode()[:15])  # PR_SET_NAME
