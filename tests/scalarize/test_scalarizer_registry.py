"""Looking a scalarizer up: what is accepted, what each mistake is told."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from morlaif.errors import UserError
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

HOME = "morlaif.scalarize.functions"


def make(function: str, **params) -> ScalarizerSettings:
    return ScalarizerSettings(name="mine", function=function, params=params)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (make(f"{HOME}.linaer"), "has no 'linaer'. Did you mean 'linear'?"),
        (make("linear"), "expected a dotted path"),
        (make("nowhere.at_all"), "no module 'nowhere'"),
        (make(f"{HOME}.math"), "expected a function"),
        (make(f"{HOME}.cvar", alhpa=0.2), "scalarizer.params.alhpa: .* Did you mean 'alpha'?"),
        (make(f"{HOME}.cvar"), "scalarizer.params.alpha is missing"),
        (make(f"{HOME}.cvar", alpha=2), "scalarizer.params.alpha .* less than or equal to 1, got 2"),
        (make(f"{HOME}.cvar", alpha="much"), "scalarizer.params.alpha .* valid number, got 'much'"),
        (make(f"{HOME}.cvar", alpha=True), "scalarizer.params.alpha"),
        (make(f"{HOME}.bernoulli_nash", root=1), "scalarizer.params.root .* boolean"),
        (make(f"{HOME}.soft_max_min", temperature=0), "greater than 0"),
        (make(f"{HOME}.tchebycheff", ideal=1.0, weights=[1]), "no such parameter"),
        (make(f"{HOME}.gated", gates="toxicity", threshold=0.0), "scalarizer.params.gates"),
    ],
)
def test_mistakes_are_named(settings: ScalarizerSettings, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        resolve(settings)
    assert "\n" not in str(caught.value)


def test_principles_are_checked_when_known() -> None:
    settings = make(f"{HOME}.single", principle="helpfullness")
    resolve(settings)
    with pytest.raises(UserError, match=r"names 'helpfullness'.* Did you mean 'helpfulness'\?"):
        resolve(settings, names=["helpfulness", "detail"])
    gates = make(f"{HOME}.gated", gates=["toxicity"], threshold=0.0)
    with pytest.raises(UserError, match="names 'toxicity'"):
        resolve(gates, names=["helpfulness"])


def test_a_function_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(
        textwrap.dedent("""
        def softer(rewards, *, slope: float, floor=-1.0):
            return (rewards * slope).clamp(min=floor).sum(-1)

        def picky(rewards, names, power: int = 2):
            return rewards[:, names.index("detail")] ** power
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    scalarizer = resolve(make("my_rules.softer", slope=0.5))
    torch.testing.assert_close(scalarizer(torch.tensor([[2.0, -9.0]])), torch.tensor([0.0]))
    assert scalarizer.properties.monotone is None
    picky = resolve(make("my_rules.picky"))
    torch.testing.assert_close(picky(torch.tensor([[2.0, 3.0]]), ("bias", "detail")), torch.tensor([9.0]))
    with pytest.raises(UserError, match="through an Objective"):
        picky(torch.tensor([[2.0, 3.0]]))
    with pytest.raises(UserError, match=r"params.slope of 'mine'"):
        resolve(make("my_rules.softer", slope="steep"))


@pytest.mark.slow
def test_resolving_imports_no_torch() -> None:
    code = f"""
import sys
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
resolve(ScalarizerSettings(name="s", function="{HOME}.soft_max_min", params={{"temperature": 1.0}}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
