from __future__ import annotations

import errno

import pytest

from morlaif.errors import Damaged, MachineError, UserError, describe, of_system


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_broken_disk_is_the_machines_failure(number):
    error = OSError(number, "as the system says it", "/store/pm/x")
    line = of_system(error)
    assert type(line) is MachineError and str(line).startswith("/store/pm/x: th")
    assert describe(error) == str(line)  # wherever it comes up


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP])
def test_a_place_that_cannot_be_written_is_the_users_mistake(number):
    line = of_system(OSError(number, "as the system says it", "/x"), "paths.store=/x")
    assert type(line) is UserError and str(line).startswith("paths.store=/x: ") and "; " in str(line)


def test_what_has_a_line_of_its_own_keeps_it():
    assert describe(Damaged("a: is damaged")) == "a: is damaged"
    assert describe(ValueError("no\nmore")) == "ValueError: no"
