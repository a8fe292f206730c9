from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.batches import by_tokens, microbatches
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


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_rows_are_in_few_parts_of_so_many_padded_tokens(lengths, most):
    parts = by_tokens(lengths, most)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    padded = [len(part) * max(lengths[place] for place in part) for part in parts]
    assert all(tokens <= most or len(part) == 1 for tokens, part in zip(padded, parts, strict=True))
    for part, after in pairwise(parts):  # the first row of a part did not fit into the one before
        assert (len(part) + 1) * max(lengths[place] for place in part) > most
        assert max(lengths[place] for place in after) <= min(lengths[place] for place in part)


def test_rows_by_tokens_by_hand():
    assert by_tokens([3, 9, 4, 4], 9) == [[1], [2, 3], [0]]
    assert by_tokens([], 9) == []
