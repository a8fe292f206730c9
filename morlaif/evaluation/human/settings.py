"""Settings of a rating by people; `conf/human/*.yaml` holds every default."""

from __future__ import annotations

from typing import Literal

from morlaif.settings import Batch, Folder, Lines, Paths, PathText, Probability, Seed, Settings, Text


class HumanStudySettings(Settings):
    action: Literal["export", "import"] | None
    run: PathText | None  # name or folder of a finished run; null: the run that this command's config names
    folder: Folder | None  # null: <run>/human
    pairs: Lines | None  # comparisons such as morlaif_vs_sft; null: the policy against each other one
    prompts: Batch  # on which each comparison is rated
    repeats: Probability  # pairs shown again with their sides swapped, as a share of all pairs
    checks: Probability  # pairs whose answer is known, as a share of all pairs
    seed: Seed
    question: Text
    instructions: str  # paragraphs are parted by an empty line
    answers: Paths | None  # files or globs; null: all in <folder>/answers
    max_failed: Probability  # a rater who fails more of the checks than this is left out
