"""How much goes through a network at once: buckets of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# Padded tokens of one forward. On a CPU, few enough that the activations of a small model stay in its cache (measured:
# 1.9 times as fast as switching adapters at 2048, 1.2 times at 8192); on a GPU, enough to fill it.
BUCKET_TOKENS = {"cpu": 2048, "cuda": 65536}
JOINT_TOKENS = 32768  # padded tokens of one training forward at most, where no number is given
WIDE = 2**21  # numbers in the widest layer's result on a CPU: 8 MB, so that memory is the weights' and not theirs


def tokens_at_once(cuda: bool, widest: int) -> int:
    """Padded tokens of one forward of a model whose widest linear layer has `widest` outputs."""
    if cuda:
        return BUCKET_TOKENS["cuda"]
    return min(BUCKET_TOKENS["cpu"], max(128, WIDE // widest))


def length_buckets(lengths: Sequence[int], tokens: int, slack: float = 1.25) -> Iterator[list[int]]:
    """Indices of rows of the given lengths, shortest first, in buckets of at most `tokens` padded tokens or one row.

    Within a bucket the longest row is at most `slack` times the shortest, unless it holds no more than eight rows.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    bucket: list[int] = []
    for i in order:
        longest = lengths[i]
        too_wide = len(bucket) >= 8 and longest > slack * lengths[bucket[0]]
        if bucket and ((len(bucket) + 1) * longest > tokens or too_wide):
            yield bucket
            bucket = []
        bucket.append(i)
    if bucket:
        yield bucket
