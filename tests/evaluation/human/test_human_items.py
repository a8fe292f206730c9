"""What raters see names no policy and tells no kind; the key knows all of it; the same seed gives the same form."""

from __future__ import annotations

import json
import re
from collections import Counter

from human_cases import COMPARISONS, make_rows

from morlaif.evaluation.human.form import render
from morlaif.evaluation.human.items import make_study


def form(study) -> str:
    return render(study, "Which is better?", "Read both.\n\nTake your time.")


def test_nothing_in_the_form_names_a_policy_or_a_kind(study, rows):
    html = form(study)
    for secret in ("zebra", "yak", "ibex", "policy_vs", "on_topic", "off_topic", 'repeat"', rows[3]["prompt_id"]):
        assert secret not in html
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    shown = json.loads(data)
    assert set(shown) == {"form", "seed", "items"}
    assert all(set(item) == {"id", "messages", "a", "b"} for item in shown["items"])
    assert {item["id"] for item in shown["items"]} == set(study.key()["items"])
    assert len({len(item["id"]) for item in shown["items"]}) == 1


def test_sides_are_balanced_in_each_comparison(study):
    for name in ("policy_vs_single", "policy_vs_sft"):
        pairs = [i for i in study.items if i.kind == "pair" and i.comparison == name]
        assert len(pairs) == 20 and sum(i.a_is == "zebra" for i in pairs) == 10


def test_the_key_says_who_wrote_each_side(study, rows):
    texts = {row["prompt_id"]: {p: r["text"] for p, r in row["responses"].items()} for row in rows}
    for item in study.items:
        own = texts[item.prompt_id]
        if item.kind != "check":
            assert (own[item.a_is], own[item.b_is]) == (item.a, item.b)
        else:
            sides = {item.a_is: item.a, item.b_is: item.b}
            assert sides["on_topic"] == own["zebra"]
            assert sides["off_topic"] in {t["zebra"] for t in texts.values()} - {own["zebra"]}
    assert Counter(i.kind for i in study.items) == {"pair": 40, "repeat": 4, "check": 8}


def test_repeats_are_pairs_with_their_sides_swapped(study):
    by_id = {item.id: item for item in study.items}
    for item in (i for i in study.items if i.kind == "repeat"):
        before = by_id[item.of]
        assert before.kind == "pair" and (item.a, item.b, item.a_is) == (before.b, before.a, before.b_is)


def test_checks_show_prompts_that_no_pair_shows(study):
    pairs = {i.prompt_id for i in study.items if i.kind == "pair"}
    assert not pairs & {i.prompt_id for i in study.items if i.kind == "check"}


def test_the_seed_alone_decides(rows, study):
    how = {"prompts": 20, "repeats": 0.1, "checks": 0.2}
    again, other = (make_study(rows, COMPARISONS, seed=seed, **how) for seed in (3, 4))
    assert form(again) == form(study) and again.key() == study.key()
    assert other.form != study.form
    assert not set(other.key()["items"]) & set(study.key()["items"])


def test_equal_responses_are_ties_that_nobody_rates():
    rows = make_rows(10)
    for row in rows[:4]:
        row["responses"]["yak"] = row["responses"]["zebra"]
    study = make_study(rows, COMPARISONS[:1], prompts=10, repeats=0, checks=0, seed=0)
    assert study.key()["comparisons"]["policy_vs_single"]["identical"] == 4 and len(study.items) == 6


def test_a_response_stays_text():
    rows = make_rows(4)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028 {{ 7 * 7 }}"
    rows[0]["responses"]["zebra"]["text"] = rows[1]["messages"][0]["content"] = evil
    study = make_study(rows, COMPARISONS, prompts=4, repeats=0, checks=0, seed=0)
    html = form(study)
    assert html.count("<script") == 2 and html.count("</script") == 2 and "<img" not in html and "\u2028" not in html
    (data,) = re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert evil in [text for item in json.loads(data)["items"] for text in (item["a"], item["b"])]
    asked = render(study, "<b>Which?</b>", evil)
    assert "&lt;b&gt;Which?" in asked and asked.count("<script") == 2


def test_the_form_asks_the_network_for_nothing(study):
    html = form(study)
    assert not re.search(r"https?://|@import|<link rel=.(?!icon)|src=", html) and "default-src 'none'" in html
