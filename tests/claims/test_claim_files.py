"""Claims as files: ours are whole, and what is wrong with one of a user's is said with its place."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from artifacts import save_verdicts

from morlaif.claims.cells import cells, key_of, makers, merged, words_of_runs
from morlaif.claims.document import SWEEPS, document, kept
from morlaif.claims.estimators import Arm, Estimator, Seen, estimator, number_at, slope
from morlaif.claims.settings import ClaimsSettings
from morlaif.claims.spec import claim_files, find_claims, read_claim
from morlaif.data.records import Pair, save_pairs
from morlaif.errors import MachineError, UserError
from morlaif.feedback.records import Verdict
from morlaif.presets import options

SETTINGS = ClaimsSettings(select="all", seeds=2, vary=("pm.seed", "ppo.seed"), models={}, toy=(), alpha=0.05)
MINE = """
statement: Mine is better.
source: me
paper: none
base: principles.count=2
arms:
  mine: [scalarizer=max_min, "arms.select=[morlaif]"]
  theirs: "arms.select=[rlaif]"
estimate: {name: win_rate, first: mine, second: theirs}
test: {kind: greater, than: 0.5}
"""


class Brevity(Estimator):
    """One of a user's own."""

    def __init__(self, *, arm: str, words: float = 1.0) -> None:
        self.arm, self.words = arm, words

    def arms(self):
        return [self.arm]

    def __call__(self, seen):
        return {"": self.words}


@pytest.fixture
def claim(tmp_path):
    def write(text: str = MINE, name: str = "mine.yaml") -> Path:
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name

    return write


def test_our_claims_are_whole():
    known = find_claims("all")
    assert len(known) >= 10 and [one.name for one in known] == sorted(claim_files())
    assert all(one.claim.statement.endswith(".") and one.estimator for one in known)
    assert "claims" not in options(), "no presets"


def test_a_claim_of_ones_own_is_found_by_its_file(claim, tmp_path):
    (one,) = find_claims([str(claim())])
    assert one.name == "mine" and one.claim.every_arm == {
        "mine": ("principles.count=2", "scalarizer=max_min", "arms.select=[morlaif]"),
        "theirs": ("principles.count=2", "arms.select=[rlaif]"),
    }
    assert one.estimator.contests() == [("mine", "theirs")]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "other.yaml").write_text(MINE)
    assert "other" in claim_files(str(tmp_path)), "in a folder of presets"


def test_an_estimator_of_ones_own_has_a_dotted_path(claim):
    path = f"{__name__}.Brevity"
    own = MINE.replace("{name: win_rate, first: mine, second: theirs}", f"{{name: {path}, arm: mine, words: 2}}")
    one = read_claim(claim(own))
    assert one.estimator(Seen({})) == {"": 2.0}
    with pytest.raises(UserError, match=r"estimate\.wrods: '.*Brevity' has no such parameter.*Did you mean 'words'"):
        read_claim(claim(own.replace("words", "wrods")))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("statement:", "statment:", r"statment"),
        ("than: 0.5", "margin: 0.5", r"kind greater takes than, and nothing else"),
        ("kind: greater", "kind: better", r"test\.kind"),
        ("first: mine", "first: mein", r"there is no arm 'mein'\. Did you mean 'mine'"),
        ("name: win_rate", "name: win_rat", r"no claim_estimator 'win_rat'\. Did you mean 'win_rate'"),
        ("second: theirs", "other: theirs", r"other: .*has no such parameter"),
        ("base: principles.count=2", "sweep: {principles.count: [2]}", r"two or more different values"),
        ("base: principles.count=2", "sweep: {a: [1, 2], b: [1, 2]}", r"one key can be swept"),
        ("test: {", "test: [", r"mine\.yaml:\d+: no YAML"),
        ("{name: win_rate, first", "{name: slope, of: {name: win_rate, first", r"no YAML"),
    ],
)
def test_what_is_wrong_with_a_claim_is_said_with_its_place(claim, old, new, said):
    with pytest.raises(UserError, match=said) as error:
        read_claim(claim(MINE.replace(old, new)))
    assert all("mine.yaml" in line for line in str(error.value).splitlines())


def test_a_name_that_is_none_brings_the_near_one():
    with pytest.raises(UserError, match=r"no claim 'fewer_principle', and no file\. Did you mean 'fewer_principles'"):
        find_claims(["fewer_principle"])


def test_runs_of_a_claim(claim):
    (one,) = find_claims([str(claim())])
    found = cells(one, SETTINGS, ["ppo.steps=3", "scalarizer=linear", "ppo.seed=9"], {})
    assert [(cell.arm, cell.seed) for cell in found] == [("mine", 0), ("mine", 1), ("theirs", 0), ("theirs", 1)]
    assert found[1].words == (
        "stages=[evaluate]", "ppo.steps=3", "scalarizer=max_min", "principles.count=2", "arms.select=[morlaif]",
        "pm.seed=1", "ppo.seed=1",
    ), "the claim's own words and seeds are stronger than the command's"  # fmt: skip


def test_a_sweep_has_each_arm_at_each_value(claim):
    text = MINE.replace("base: principles.count=2", "sweep: {principles.count: [2, 4]}")
    text = text.replace(
        "{name: win_rate, first: mine, second: theirs}",
        "{name: slope, of: {name: win_rate, first: mine, second: theirs}}",
    )
    one = read_claim(claim(text))
    assert list(one.claim.every_arm) == ["mine at 2", "theirs at 2", "mine at 4", "theirs at 4"]
    assert one.claim.every_arm["theirs at 4"][-1] == "principles.count=4"
    rates = {2.0: {"": np.array([0.5, 0.5])}, 4.0: {"": np.array([0.5, 0.7])}}
    assert one.estimator.over_levels(rates)[""] == pytest.approx([0, 0.2]), "prompt by prompt"


def test_models_that_arms_name(claim):
    text = MINE.replace("base:", "models: {small: model=toy_small, given: null}\nbase:").replace(
        "scalarizer=max_min", '"pm.base={small}"'
    )
    one = read_claim(claim(text))
    with pytest.raises(UserError, match=r"needs claims\.models\.given=<folder or hub id>"):
        makers(one, [], {})
    (maker,) = makers(one, ["ppo.steps=3"], {"given": "x"})
    assert maker == ("small", ("ppo.steps=3", "model=toy_small", "stages=[sft]"))
    assert "pm.base='/a b/it\\'s'" in cells(one, SETTINGS, [], {"small": "/a b/it's"})[0].words
    wrong = read_claim(claim(text.replace("{small}", "{smal}")))
    with pytest.raises(UserError, match=r"models names no 'smal'\. Did you mean 'small'"):
        cells(wrong, SETTINGS, [], {"small": "x"})


def test_words():
    given = ["sweep=claims", "claims.seeds=2", "hydra/launcher=joblib", "ppo.steps=3", "++data.params.a=1"]
    assert words_of_runs(given) == ["ppo.steps=3", "++data.params.a=1"]
    assert merged(["a=1", "b=2", "a=3"]) == ("a=3", "b=2") and key_of("++a.b=c=d") == "a.b"


def test_numbers_are_found_by_path(tmp_path):
    (tmp_path / "results.json").write_text('{"win_rate": {"linear_vs_sft": {"value": 0.7}}, "pm": {"a": 1, "b": 2}}')
    (tmp_path / "pm.json").write_text('{"rows": [{"name": "x", "w": -1}, {"name": "y", "w": 3}]}')
    arm = Arm("linear", {"evaluate": tmp_path, "pm/single": tmp_path})
    seen = Seen({"a": arm, "b": arm})
    made = estimator(
        "number", {"arm": "a", "file": "evaluate/results.json", "path": "win_rate.{policy}_vs_sft.value"}, ""
    )
    assert made(seen) == {"": 0.7}
    minus = {"arm": "b", "file": "pm/single/pm.json", "path": "rows.x.w"}
    made = estimator("number", {"arm": "a", "file": "evaluate/results.json", "path": "pm.*", "minus": minus}, "")
    assert made(seen) == {"": 1.5 + 1} and made.arms() == ["a", "b"]
    with pytest.raises(UserError, match=r"there is no 'z'\. There is x, y"):
        number_at([{"name": "x"}, {"name": "y"}], ["z"], "here")
    with pytest.raises(UserError, match="no number is there, but str"):
        number_at({"a": "b"}, ["a"], "here")
    with pytest.raises(MachineError, match="the run has no unit 'pm/multi'"):
        arm.read("pm/multi/pm.json")


def test_a_slope_is_for_each_doubling():
    assert slope([1, 2, 4], [0.1, 0.2, 0.3]) == pytest.approx(0.1)
    rows = [{"count": 1, "accuracy": {"human": {"value": 0.6}}}, {"count": 4, "accuracy": {"human": {"value": 0.8}}}]

    class Known(Arm):
        def read(self, file):
            return {"ablation": {"random": rows}}

    made = estimator("accuracy_by_count", {"arm": "a"}, "")
    assert made(Seen({"a": Known("p", {})})) == {"": pytest.approx(0.1)}
    with pytest.raises(UserError, match="no accuracy by 'truth'"):
        estimator("accuracy_by_count", {"arm": "a", "standard": "truth"}, "")(Seen({"a": Known("p", {})}))


def test_the_page_of_claims_is_current():
    page = Path(__file__).parents[2] / "docs" / "claims.md"
    tables = kept(page.read_text())
    assert set(tables) == set(SWEEPS)
    assert page.read_text() == document(find_claims("all"), tables), "run `make docs`"


def test_orders_of_presentation_are_compared_like_with_like(tmp_path):
    """By log-odds, d forward and −d backward: a bias of +1 towards what is shown first turns the second pair round."""
    pairs = [Pair.of([{"role": "user", "content": str(k)}], "x", "y", human=float(k == 0)) for k in range(2)]
    save_pairs(tmp_path / "respond", {"train": pairs, "eval": []})
    odds = [(2.0 + 1, -2.0 + 1), (-0.5 + 1, 0.5 + 1)]  # of A, each way round
    verdicts = [
        Verdict(pair.id, 0.5, 0.0, True, "me", forward, backward)
        for pair, (forward, backward) in zip(pairs, odds, strict=True)
    ]
    save_verdicts(tmp_path / "single", {"train": verdicts, "eval": []})
    seen = Seen({"a": Arm("p", {"respond": tmp_path / "respond", "feedback/single": tmp_path / "single"})})
    params = {"arm": "a", "model": "single", "reading": "both", "minus": "forward"}
    assert estimator("label_agreement", params, "")(seen) == {"": 0.5}
    save_pairs(tmp_path / "bare", {"train": [Pair.of(p.messages, "x", "y") for p in pairs], "eval": []})
    bare = Seen({"a": Arm("p", {"respond": tmp_path / "bare", "feedback/single": tmp_path / "single"})})
    with pytest.raises(UserError, match="have no human labels: give it respond=pairs"):
        estimator("label_agreement", params, "")(bare)
