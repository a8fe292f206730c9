"""Names, entry points and dotted paths all lead to one object."""

from __future__ import annotations

import math

import pytest

from morlaif import registry
from morlaif.errors import UserError
from morlaif.registry import Registry, of_others

ROOTS = Registry("root", "numbers.root", "math", {"square": "math.sqrt"})


@pytest.fixture
def offered(monkeypatch):
    """A package that offers a root of its own, and one under a name that is ours."""
    monkeypatch.setattr(
        registry,
        "_installed",
        lambda kind: {"cube": "math.cbrt", "square": "math.exp"} if kind == "root" else {},
    )


def test_our_own_name_means_ours(offered):
    assert ROOTS.find("square") is math.sqrt


def test_a_package_offers_by_name(offered):
    assert ROOTS.find("cube") is math.cbrt
    assert ROOTS.names() == ("square", "cube")


def test_a_dotted_path_needs_no_registration():
    assert ROOTS.find("math.cbrt") is math.cbrt


def test_a_slip_names_the_near_one_and_the_key(offered):
    with pytest.raises(UserError, match=r"numbers\.root: no root 'cubee'.*'cube'.*Known: square, cube; or give the do"):
        ROOTS.path("cubee")


def test_only_code_of_others_is_read_for_digests():
    assert of_others("my.module.function") == "my.module.function"
    assert of_others("morlaif.rl.advantages.gae") is None
    assert of_others("gae") is None


def test_a_dotted_path_and_an_installed_name_are_code_of_others(offered):
    assert [ROOTS.is_others(name) for name in ("square", "cube", "my.root", "cubee")] == [False, True, True, False]
