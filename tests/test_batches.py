from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.batches import microbatches
from morlaif.errors import UserError


@given(st.integers(1, 64), st.integers(1, 16), st.none() | st.integers(1, 64))
def test_every_rank_sees_its_share_and_never_more_than_asked_at_once(share, ranks, most):
    micro, accumulation = microbatches(share * ranks, most, ranks, key="sft")
    assert micro * accumulation * ranks == share * ranks
    assert micro <= (most or share)
    # no fewer forwards would do
    assert not any(share % rows == 0 for rows in range(micro + 1, min(most or share, share) + 1))


@pytest.mark.parametrize(
    ("batch", "ranks", "line"),
    [
        (16, 3, r"sft\.batch_size=16 cannot be shared evenly by 3 ranks; take 15 or 18"),
        (2, 8, r"sft\.batch_size=2 cannot be shared evenly by 8 ranks; take 8"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_reported_with_one_that_can(batch, ranks, line):
    with pytest.raises(UserError, match=line):
        microbatches(batch, None, ranks, key="sft")
