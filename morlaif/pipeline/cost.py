"""What the feedback of a plan will cost, for `dry_run=true`: of units that are still to be built, before anything is
sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from morlaif.config import Config
from morlaif.data.records import DATASET
from morlaif.data.settings import ToyData
from morlaif.evaluation.settings import HfJudge, OpenAIJudge
from morlaif.feedback.chunks import PairChunks, arrow_rows
from morlaif.feedback.estimate import ASSUMED_TOKENS, CostEstimate, estimate, estimate_ratings
from morlaif.feedback.label import Assign, draw
from morlaif.feedback.settings import HfSettings, OpenAISettings, PluginFeedback, Principle
from morlaif.models.settings import SampleResponses
from morlaif.online.settings import ServerTeacher, TeacherSettings
from morlaif.pipeline.display import plain_table
from morlaif.pipeline.timing import duration
from morlaif.stages.feedback import FeedbackReads
from morlaif.stages.front import FrontReads
from morlaif.stages.scoring import ScoringReads
from morlaif.stages.teacher import TeacherReads
from morlaif.stages.weigh import WeighReads
from morlaif.texts import add_row, line
from morlaif.units.store import Store
from morlaif.units.unit import Plan

SPLITS = ("train", "eval")


def feedback_costs(plan: Plan, store: Store, config: Config) -> list[CostEstimate]:
    """An estimate for each unit that is not in the store and asks a language model: for labels, for ratings while the
    policy trains, or for the evaluation.
    """
    made = []
    respond = plan.by_name.get("respond")
    for unit in plan.units:
        reads = unit.reads
        if isinstance(reads, FeedbackReads) and not store.has(unit):
            if isinstance(reads.feedback, OpenAISettings | HfSettings):
                made.append(_unit(unit.name, reads, _pairs(plan, store, config), store, config))
            elif isinstance(reads.feedback, PluginFeedback):
                made.append(_unknown(unit.name, f"what {reads.feedback.source} costs is not known here"))
        elif isinstance(reads, ScoringReads) and reads.criteria is not None and not store.has(unit):
            made += _ratings(unit.name, reads, store, config)
        elif isinstance(reads, TeacherReads) and not store.has(unit):
            made += _completions(unit.name, reads.teacher, config)
    judge, evaluate = config.eval.judge, plan.by_name.get("evaluate")
    if (
        isinstance(judge, OpenAIJudge | HfJudge)
        and respond is not None
        and evaluate is not None
        and not store.has(evaluate)
    ):
        made.append(_evaluation(config, judge, store))
    for unit in plan.units:
        if isinstance(unit.reads, FrontReads) and isinstance(judge, OpenAIJudge | HfJudge) and not store.has(unit):
            prompts = _held_out(unit.reads.answers.prompts, config)
            made.append(_judged(unit.name, judge, prompts * len(unit.reads.points), config, store))
    return made


def _unit(
    name: str, reads: FeedbackReads, pairs: PairChunks | int | None, store: Store, config: Config
) -> CostEstimate:
    if pairs is None:
        return _unknown(
            name, "the number of pairs is not known before the data is read: build stages=[respond], or set data.limit"
        )
    if reads.constitution is not None:
        together: Sequence[Principle] = ()
        assign: Assign = draw(reads.constitution, reads.verdicts_per_pair or 1, reads.seed)
    else:
        assign, together = (lambda _: (reads.principle,)), config.principles.chosen
    return estimate(
        name, reads.feedback, assign, pairs, ledger=store.ledger, together=together, lengths=_lengths(config)
    )


def _completions(name: str, settings: TeacherSettings, config: Config) -> list[CostEstimate]:
    """Of a teacher behind a server; what the ledger has of it is not looked up."""
    teacher, prompts = settings.teacher, _examples(config)
    if not isinstance(teacher, ServerTeacher):
        return []
    if prompts is None:
        return [_unknown(name, "the number of prompts is not known before the data is read: set data.limit")]
    count = round(settings.share * prompts)
    read, written = count * ASSUMED_TOKENS[0], count * settings.sampling.max_new_tokens
    usd = teacher.engine.price.usd(read, written)
    usd = usd if settings.usd is None else min(usd, settings.usd)
    note = f"{name}: completions, of all rows of the data and as long as they may be"
    return [CostEstimate(name, count, 0, count, read, written, usd, None, (note,))]


def _unknown(name: str, why: str) -> CostEstimate:
    return CostEstimate(name, None, 0, 0, 0, 0, 0.0, None, (why,))


def _ratings(name: str, reads: ScoringReads, store: Store, config: Config) -> list[CostEstimate]:
    """For each judge of the unit's reward that costs something."""
    made = []
    wordings = {criterion.name: criterion for criterion in reads.criteria or ()}
    rated = _rated(reads, config)
    for part, rubric in reads.layout.rubrics.items():
        if isinstance(rubric.engine or config.feedback, OpenAISettings | PluginFeedback):
            what = f"one request a response ({rated[0]:,})" if rated else "one request a response"
            made.append(_unknown(f"{name} {part}".strip(), f"{what}, each as long as its prompt's criteria"))
    for part, judge in reads.layout.judges.items():
        engine = judge.engine or config.feedback
        if rated is None:
            what = f"how many responses {name} has rated is not known here: its method is no one's of ours"
            made.append(_unknown(f"{name} {part}".strip(), what))
            continue
        if isinstance(engine, PluginFeedback):
            made.append(_unknown(f"{name} {part}".strip(), f"what {engine.source} costs is not known here"))
            continue
        responses, longest = rated
        criteria = [wordings[column.own] for column in reads.layout.of(part)]
        one = estimate_ratings(
            f"{name} {part}".strip(), engine, criteria, responses,
            highest=judge.highest, ledger=store.ledger, lengths=(ASSUMED_TOKENS[0], longest),
        )  # fmt: skip
        made += [one] if one else []
    return made


def _rated(reads: ScoringReads, config: Config) -> tuple[int, int] | None:
    """How many responses a unit has rated in all, and the most tokens of one; None for a method from outside."""
    if isinstance(reads, WeighReads):
        weights = reads.weights
        pairs = (weights.regression_pairs or _examples(config) or 0) if weights.method == "regressed" else 0
        return weights.prompts + 2 * pairs, weights.max_new_tokens
    return getattr(reads, "rated", None)  # what a method of elsewhere reads may be its own


def _examples(config: Config) -> int | None:
    """How many the data has, as far as the config tells."""
    return config.data.train + config.data.eval if isinstance(config.data, ToyData) else config.data.limit


def _pairs(plan: Plan, store: Store, config: Config) -> PairChunks | int | None:
    """The pairs where they are built; else how many there will be, by the data if that is built, or by the config."""
    if store.has(plan.by_name["respond"]):
        return PairChunks.chain([PairChunks.open(store.folder(plan.by_name["respond"]), split) for split in SPLITS])
    if store.has(plan.by_name["data"]):
        return sum(arrow_rows(store.folder(plan.by_name["data"]) / DATASET / split) for split in SPLITS)
    return _examples(config)


def _lengths(config: Config) -> tuple[int, int, int]:
    """Tokens of prompt and responses: as long as a sampled response may be, else assumed."""
    prompt, *others = ASSUMED_TOKENS
    longest = config.respond.max_new_tokens if isinstance(config.respond, SampleResponses) else others[0]
    return prompt, longest, longest


def _evaluation(config: Config, judge: OpenAIJudge | HfJudge, store: Store) -> CostEstimate:
    from morlaif.evaluation.wins import contests

    prompts, of_people = _held_out(config.eval.prompts, config), _held_out(config.eval.agreement, config)
    kept = config.ppo.steps // config.ppo.keep_every if config.eval.kept and config.ppo.keep_every else 0
    compared = len(contests(config.arms.select, list(config.eval.policies))) + kept * len(config.arms.select)
    return _judged("evaluate", judge, prompts * compared + of_people, config, store)


def _held_out(count: int, config: Config) -> int:
    """So many prompts or pairs, as far as the toy world has them."""
    return min(count, config.data.eval) if isinstance(config.data, ToyData) else count


def _judged(name: str, judge: OpenAIJudge | HfJudge, count: int, config: Config, store: Store) -> CostEstimate:
    """Of comparing so many answers of two policies."""
    overall = Principle(
        name="overall", question=judge.question, description=judge.description or "-", covers=("overall",)
    )
    lengths = (ASSUMED_TOKENS[0], config.eval.max_new_tokens, config.eval.max_new_tokens)
    return estimate(name, judge.engine, lambda _: (overall,), count, ledger=store.ledger, lengths=lengths)


def cost_table(estimates: Sequence[CostEstimate]) -> Table:
    """A row for each unit that must ask, and their sum; what the numbers rest on is below."""
    columns = ("feedback to ask for", "verdicts", "known", "requests", "M tokens", "USD", "time")
    table = plain_table(*columns, right=slice(1, None))
    for one in estimates:
        add_row(table, one.name, *_cells(one))
    if len(estimates) > 1:
        add_row(table, ("in all", "bold"), *_cells(_sum(estimates)))
    notes = dict.fromkeys(note for one in estimates for note in one.notes)
    table.caption, table.caption_justify = line("\n".join(f"({note})" for note in notes), lines=True), "left"
    return table


def _sum(estimates: Sequence[CostEstimate]) -> CostEstimate:
    times = [one.seconds for one in estimates if one.seconds is not None]
    asked = [one.verdicts for one in estimates if one.verdicts is not None]
    return CostEstimate(
        "",
        verdicts=sum(asked) if asked else None,
        known=sum(one.known for one in estimates),
        requests=sum(one.requests for one in estimates),
        input_tokens=sum(one.input_tokens for one in estimates),
        output_tokens=sum(one.output_tokens for one in estimates),
        usd=sum(one.usd for one in estimates),
        seconds=sum(times) if len(times) == len(estimates) else None,
    )


def _cells(one: CostEstimate) -> tuple[str, ...]:
    if one.verdicts is None:
        return ("?",) * 6
    tokens = (one.input_tokens + one.output_tokens) / 1e6
    return (
        f"{one.verdicts:,}",
        f"{one.known:,}",
        f"{round(one.requests):,}",
        f"{tokens:,.2f}",
        f"{one.usd:,.2f}",
        duration(one.seconds),
    )
