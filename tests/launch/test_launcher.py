"""Which of several failures is told."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from morlaif.errors import ProcessFailed, UserError
from morlaif.launch.backends import last_words
from morlaif.launch.launcher import failure
from morlaif.launch.processes import forget_launchers, free_port

LOST = {"rank": 0, "error": "RuntimeError: Connection closed by peer", "user_error": False, "time": 5.0}


def told(tmp_path: Path, failures=(), deaths=()) -> UserError | ProcessFailed:
    (tmp_path / "sft.rank-1.log").write_text("Traceback: out of luck")
    return failure(failures, deaths, tmp_path / "sft", tmp_path / "sft.launch.log")


def dead(rank: int, exitcode: int, time: float = 6.0) -> dict:
    return {"rank": rank, "exitcode": exitcode, "time": time}


def test_a_rank_that_was_killed_is_the_cause_of_its_neighbours_complaint(tmp_path):
    error = told(tmp_path, [LOST], [dead(0, 1), dead(1, -signal.SIGKILL, 7.0)])
    assert str(error).startswith("rank 1 was killed by SIGKILL (out of memory?); its output: ")
    assert isinstance(error, ProcessFailed) and error.traceback == "Traceback: out of luck"


def test_a_rank_that_was_ended_for_anothers_sake_is_not(tmp_path):
    broke = {"rank": 1, "error": "ValueError: odd", "user_error": False, "time": 4.0}
    error = told(tmp_path, [LOST, broke], [dead(0, -signal.SIGTERM), dead(1, 1)])
    assert str(error).startswith("rank 1 failed: ValueError: odd; its output: ")


def test_a_users_mistake_is_reported_as_such_whoever_met_it(tmp_path):
    mistake = {"rank": 3, "error": "sft.max_length=9 is too long", "user_error": True, "time": 4.0}
    error = told(tmp_path, [LOST, mistake], [dead(0, 1)])
    assert isinstance(error, UserError) and str(error) == "sft.max_length=9 is too long"


def test_a_rank_that_wrote_nothing_and_a_start_that_failed(tmp_path):
    assert "rank 2 exited with 3" in str(told(tmp_path, [], [dead(2, 3)]))
    (tmp_path / "sft.launch.log").write_text("warming up\nImportError: no accelerate\n")
    assert str(told(tmp_path)) == "the ranks could not be started: ImportError: no accelerate"


def test_what_a_launcher_above_left_is_forgotten_and_the_rest_kept(monkeypatch):
    foreign = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "ACCELERATE_USE_DEEPSPEED"}
    for name in (*foreign, "MY_RANK"):
        monkeypatch.setenv(name, "1")
    forget_launchers()
    assert "MY_RANK" in os.environ
    assert not foreign & os.environ.keys()


@pytest.mark.parametrize("_", range(3))
def test_ports_are_free(_):
    with socket.socket() as probe:
        probe.bind(("", free_port()))


TRACEBACK = """some warning
Traceback (most recent call last):
  File "worker.py", line 3, in <module>
    main()
pydantic_core._pydantic_core.ValidationError: 1 validation error for Config
feedback.price
  Field required [type=missing, input_value={}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2/v/missing"""


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("loading\nKilled", "Killed"),
        (TRACEBACK, "pydantic_core._pydantic_core.ValidationError: 1 validation error for Config"),
        (
            TRACEBACK + "\n\nDuring handling of the above exception, another exception occurred:\n\n"
            'Traceback (most recent call last):\n  File "a.py", line 1, in b\nOSError: no space\nbye',
            "OSError: no space",
        ),
        ("Traceback (most recent call last):\n  File", "  File"),
    ],
)
def test_a_process_that_ended_by_an_exception_is_told_by_its_name(written: str, line: str):
    assert last_words(written) == line
