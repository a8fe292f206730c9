"""Pairs in a file of lines: prompt, better response, worse response, with tabs between them."""

from collections.abc import Iterator
from pathlib import Path


def rows(path: Path, *, skip: int = 0) -> Iterator[dict[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines()[skip:]:
        prompt, better, worse = line.split("\t")
        yield {"prompt": prompt, "chosen": better, "rejected": worse}
