"""One study that the tests share."""

from __future__ import annotations

import pytest
from human_cases import COMPARISONS, make_rows

from morlaif.evaluation.human.items import make_study


@pytest.fixture(scope="session")
def rows():
    return make_rows()


@pytest.fixture(scope="session")
def study(rows):
    return make_study(rows, COMPARISONS, prompts=20, repeats=0.1, checks=0.2, seed=3)
