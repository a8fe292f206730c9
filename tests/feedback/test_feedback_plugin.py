"""A judge in another package: what it must say, and what is made of it."""

from __future__ import annotations

import math
import sys
import textwrap

import pytest

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.judge import open_judge, open_rater
from morlaif.feedback.label import draw, label
from morlaif.feedback.rating import Single, check_rater
from morlaif.feedback.settings import Criterion, PluginFeedback, Principle, input_files

NEVER = {"orders_disagree": None, "spread": None, "letter_mass": None}
CLEAR = Principle(name="clear", question="Which is clearer?", description="Plain words.", covers=("helpfulness",))
SHORT = Principle(name="short", question="Which is shorter?", description="Fewer words.", covers=("conciseness",))
PAIRS = [Pair.of([{"role": "user", "content": "Hi"}], "a " * n, "b " * (12 - n)) for n in range(1, 8)]
JUDGES = '''
    from morlaif.feedback.plugin import NoVerdict, PairJudge

    class Longer(PairJudge):
        """Prefers length, and whatever comes first by half a nat."""
        def __init__(self, *, words: float = 1.0, seed: int = 0) -> None:
            self.words, self.seed, self.asked = words, seed, 0

        def log_odds(self, prompt, a, b, principle):
            self.asked += 1
            self.usage.usd += 0.01
            self.usage.input_tokens += 10
            return (len(a.split()) - len(b.split())) / self.words + 0.5

        def rate(self, prompt, response, criterion):
            return min(1.0, len(response.split()) / 10)

    class Paid(Longer):
        name = "paid"
        keeps = True

    class Odd(PairJudge):
        def log_odds(self, prompt, a, b, principle):
            n = len(a.split())
            if n == 1:
                raise NoVerdict("too short")
            return {2: None, 3: float("nan"), 4: "much"}.get(n, 0.0)

    class Mute(PairJudge):
        pass
'''


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """A module on the path; the value writes it anew."""

    def write(text: str) -> None:
        (tmp_path / "their_judges.py").write_text(textwrap.dedent(text))
        sys.modules.pop("their_judges", None)

    write(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("their_judges", None)


def of(name: str, **params) -> PluginFeedback:
    return PluginFeedback(source=f"their_judges.{name}" if name else None, params=params, stop_if=NEVER)


def test_both_orders_make_a_label_and_take_the_bias_out(judges, tmp_path):
    verdicts = label(PAIRS, CLEAR, of("Longer", words=2.0), ledger=tmp_path / "l", seed=0)
    for pair, verdict in zip(PAIRS, verdicts, strict=True):
        lead = (len(pair.first.split()) - len(pair.second.split())) / 2.0
        forward, backward = lead + 0.5, -lead + 0.5
        assert verdict.valid and verdict.judge == "Longer"
        assert (verdict.d_forward, verdict.d_backward) == pytest.approx((forward, backward))
        expected = 0.5 * (1 / (1 + math.exp(-forward)) + 1 / (1 + math.exp(backward)))
        assert verdict.p_first == pytest.approx(expected) and verdict.bias == pytest.approx(0.5)
        assert (verdict.input_tokens, verdict.usd) == pytest.approx((20, 0.02))


def test_what_has_no_answer_is_invalid_and_says_why(judges, tmp_path):
    pairs = [Pair.of([{"role": "user", "content": "Hi"}], "a " * n, "b " * 6) for n in (1, 2, 3, 5)]
    reasons = [verdict.reason for verdict in label(pairs, CLEAR, of("Odd"), ledger=tmp_path / "l", seed=0)]
    assert reasons == ["too short", "no answer", "scores that are not finite", None]
    with pytest.raises(UserError, match="log_odds of the judge 'Odd' gave 'much', no number"):
        label([Pair.of(pairs[0].messages, "a " * 4, "b")], CLEAR, of("Odd"), ledger=tmp_path / "l", seed=0)


def test_a_judge_that_costs_is_never_asked_twice(judges, tmp_path):
    def ask(settings, principle=CLEAR, seed=0):
        judge = open_judge(settings, ledger=tmp_path / "ledger.sqlite", seed=seed)
        assert judge.remembers
        from morlaif.feedback.label import label_with

        return label_with(judge, PAIRS, lambda _: (principle,)), judge.usage

    first, usage = ask(of("Paid"))
    assert usage.requests == 2 * len(PAIRS)
    again, usage = ask(of("Paid"))
    assert (usage.requests, usage.recalled) == (0, len(PAIRS)) and again == first
    for other in (
        lambda: ask(of("Paid"), SHORT),
        lambda: ask(of("Paid", words=3.0)),
        lambda: ask(of("Paid"), CLEAR.model_copy(update={"description": "Simple words."})),
        lambda: ask(of("Paid"), seed=1),
    ):
        assert other()[1].requests == 2 * len(PAIRS)
    judges(JUDGES.replace("0.5", "0.25"))  # another judge now
    changed, usage = ask(of("Paid"))
    assert usage.requests == 2 * len(PAIRS) and changed != first


def test_a_constitution_is_judged_principle_by_principle(judges, tmp_path):
    verdicts = label(PAIRS, draw([CLEAR, SHORT], 2, seed=0), of("Paid"), ledger=tmp_path / "ledger.sqlite", seed=0)
    assert [v.p_first for v in verdicts] == pytest.approx(
        [v.p_first for v in label(PAIRS, CLEAR, of("Longer"), ledger=tmp_path / "l", seed=0)]
    )


def test_it_may_rate_single_responses(judges, tmp_path):
    rater = open_rater(of("Longer"), ledger=tmp_path / "l", highest=9)
    criterion = Criterion(name="long", ask="How long?", covers=("detail",))
    asked = Single.of([{"role": "user", "content": "Hi"}], "one two three", criterion)
    ((_, rating),) = rater.judge([asked])
    assert rating.score == pytest.approx(0.3) and rating.judge == "Longer"
    check_rater(of("Longer"), "feedback")
    with pytest.raises(UserError, match=r"reward\.engine\.source 'their_judges\.Odd': it has no method 'rate'"):
        check_rater(of("Odd"), "reward.engine")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (of(""), r"feedback\.source: give the dotted path of a judge, such as my_package\.judges\.Mine"),
        (of("Longr"), r"'their_judges' has no 'Longr'\. Did you mean 'Longer'\?"),
        (
            of("Longer", word=1),
            r"feedback\.params\.word: .* no such parameter \(it has: words\)\. Did you mean 'words'",
        ),
        (of("Longer", words="two"), r"feedback\.params\.words of .*valid number, got 'two'"),
        (of("Mute"), r"'their_judges\.Mute': it has no method 'log_odds'"),
        (of("NoVerdict"), r"expected a class that inherits morlaif\.feedback\.plugin\.PairJudge, found another class"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_asked(judges, settings, says):
    with pytest.raises(UserError, match=says) as caught:
        input_files(settings)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_module_is_reported_with_its_line(judges, tmp_path):
    judges("import math\n\nx = math.nothing\n")
    with pytest.raises(UserError, match=r"their_judges' failed at .*their_judges\.py:3: AttributeError"):
        input_files(of("Longer"))
