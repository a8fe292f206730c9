"""What tells runs apart, and how they are called."""

from __future__ import annotations

from morlaif.report.comparison.labels import RunLabels, differing, flat, heading, phrase


def config(scalarizer: str = "linear", **more) -> dict:
    named = {"scalarizer.name": scalarizer, "scalarizer.function": f"f.{scalarizer}", "model.name": "toy", "seed": 0}
    return {"principles": 12, **named, **more}


def test_only_keys_that_differ():
    assert differing([config(), config()]) == []
    assert differing([config(seed=1), config(seed=2)]) == ["seed"]
    assert differing([config("max_min"), config("linear")]) == ["scalarizer.name"], "its function follows from it"


def test_a_parameter_that_differs_under_one_name_is_reported():
    soft = {"scalarizer.params.temperature": 1.0}, {"scalarizer.params.temperature": 2.0}
    found = differing([config("soft_max_min", **soft[0]), config("soft_max_min", **soft[1]), config()])
    assert found == ["scalarizer.name", "scalarizer.params.temperature"]


def test_a_key_that_some_configs_lack_tells_nothing():
    assert differing([config(), config() | {"ppo.new": 3}]) == []


def test_the_count_of_principles_means_how_it_was_chosen():
    assert differing([config(principles=4) | {"principles.count": 4}, config() | {"principles.count": None}]) == [
        "principles"
    ]


def test_names_say_what_a_group_shares_and_others_do_not():
    linear, other = config("linear", seed=0), config("max_min", seed=0)
    again = config("linear", seed=1)
    labels = RunLabels([linear, other, again])
    assert labels.distinguish([linear], [linear], [other], [again]) == "linear · seed 0"
    assert labels.distinguish([linear, again], [other]) == "linear", (
        "its runs differ in the seed, so that is no name of it"
    )
    assert labels.distinguish([linear, other, again]) == ""


def test_phrases():
    assert phrase("principles", "1") == "1 principle" and phrase("principles", "4") == "4 principles"
    assert phrase("ppo.kl.coef", "0.1") == "kl coef 0.1" and phrase("weights.method", "equal") == "weights equal"
    assert phrase("scalarizer.params.temperature", "2") == "temperature 2"
    assert heading("scalarizer.name") == "scalarizer" and heading("seed") == "seed"


def test_a_config_flat_without_what_changes_no_number():
    tree = {"name": "x", "paths": {"store": "y"}, "ppo": {"kl": {"coef": 0.1}, "betas": [1, 2]}, "weights": {}}
    assert flat(tree) == {"ppo.kl.coef": 0.1, "ppo.betas": [1, 2], "weights": {}}
