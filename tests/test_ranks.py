"""What processes know together: two gloo processes against one, and one against plain Python."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import processes
import pytest
import torch

from morlaif import ranks

ROWS = list("abcdefg")


def table(letters, numbers):
    """(N, 2)"""
    return torch.tensor([[ord(a), n + 0.1] for a, n in zip(letters, numbers, strict=True)]).reshape(-1, 2)


def talk():
    """Run on each of several ranks."""
    torch.manual_seed(ranks.rank())
    a, b, still = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    a.grad, b.grad = torch.full((3,), 1.0 + ranks.rank()), torch.arange(3.0) * (1 + ranks.rank())
    ranks.sum_gradients([a, still, b])
    try:
        ranks.on_first(lambda: 1 / 0)
        raised = False
    except ZeroDivisionError:
        raised = True
    ranks.barrier()
    ranks.SIGN_OF_LIFE = 0.05
    here = torch.device("cpu")
    return {
        "who": (ranks.rank(), ranks.count(), ranks.is_first()),
        "own": ranks.share(ROWS),
        "all": ranks.unshare([x.upper() for x in ranks.share(ROWS)]),
        "joined": ranks.concatenate([ranks.rank()] * 2),
        "total": ranks.total(torch.tensor([[1.0, ranks.rank()]])).tolist(),
        "added": ranks.added({"both": 1.0, f"only {ranks.rank()}": 2.0}),
        "first": ranks.on_first(lambda: f"from {ranks.rank()}"),
        "grads": (a.grad.tolist(), b.grad.tolist(), still.grad),
        "raised": raised,
        "patient": ranks.on_first(lambda: time.sleep(0.3) or f"from {ranks.rank()}", patiently=True),
        "mapped": ranks.mapped(table, ROWS, range(7), mistake=KeyError).tolist(),
        "few": ranks.mapped(table, ROWS[:1], range(1), mistake=KeyError).tolist(),
        "none": tuple(ranks.mapped(table, [], [], mistake=KeyError).shape),
        "everywhere": (ranks.everywhere(True, here), ranks.everywhere(ranks.rank() == 0, here)),
    }


@pytest.mark.slow
def test_three_processes(tmp_path):
    found = processes.run(talk, folder=tmp_path, ranks=3)
    assert [row["who"] for row in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert [row["own"] for row in found] == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    for row in found:
        assert row["all"] == list("ABCDEFG") and row["joined"] == [0, 0, 1, 1, 2, 2]
        assert row["total"] == [[3.0, 3.0]] and row["first"] == "from 0" and row["raised"]
        assert row["added"] == {"both": 3.0, "only 0": 2.0, "only 1": 2.0, "only 2": 2.0}
        assert row["grads"] == ([6.0] * 3, [0.0, 6.0, 12.0], None)
        assert row["patient"] == "from 0" and row["none"] == (0, 2) and row["everywhere"] == (True, False)
        assert row["mapped"] == table(ROWS, range(7)).tolist() and row["few"] == table("a", [0]).tolist()


def test_one_process_is_the_same_without_a_group():
    found = talk()
    assert found["who"] == (0, 1, True) and found["own"] == ROWS and found["all"] == list("ABCDEFG")
    assert found["grads"] == ([1.0] * 3, [0.0, 1.0, 2.0], None) and found["raised"]
    assert not torch.distributed.is_initialized()


def mistaken():
    """The last of three rows cannot be looked up, by whichever rank it falls to."""
    try:
        ranks.mapped(lambda rows: torch.tensor([[{"a": 1.0, "b": 2.0}[row]] for row in rows]), "abc", mistake=KeyError)
    except KeyError as error:
        return error.args[0]


@pytest.mark.slow
def test_a_mistake_of_one_rank_is_that_of_all(tmp_path):
    assert processes.run(mistaken, folder=tmp_path, ranks=2) == ["c", "c"] and mistaken() == "c"


def fail_on_second():
    if ranks.rank() == 1:
        raise RuntimeError("the second one is ill")
    ranks.barrier()


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others(tmp_path):
    with pytest.raises(AssertionError, match="the second one is ill"):
        processes.run(fail_on_second, folder=tmp_path, ranks=2, timeout=30)


def test_it_needs_nothing_of_the_package():
    tree = ast.parse(Path(ranks.__file__).read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(name.startswith("morlaif") for name in names)
