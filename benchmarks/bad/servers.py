"""Judges behind a server that is not there, is none, or serves something else; and keys that are not set."""

from __future__ import annotations

from typing import Any

from bad.case import MACHINE, USER, Case, case

ASK = (
    "experiment=smoke feedback=server stages=[feedback] principles.count=1 arms.select=[morlaif] data.sft=8 "
    "data.train=6 data.eval=4 sft.max_steps=1 feedback.patience=1 feedback.retries=1 feedback.timeout=3 "
)
FIRST = frozenset({"data", "sft", "respond"})  # built before a judge is asked for its first verdict


def server(name: str, manner: str, *wants: str, code: int = USER, more: str = "", **rest: Any) -> Case:
    command = f"{ASK} feedback.base_url=SERVER/{manner}/v1 feedback.model=tiny {more}"
    return case(name, command, *wants, code=code, **rest)


CASES = {
    "servers": [
        case("not there", f"{ASK} feedback.base_url=http://127.0.0.1:9/v1 feedback.model=tiny",
             "feedback.base_url|127.0.0.1:9", code=MACHINE),
        case("a host that is none", f"{ASK} feedback.base_url=http://no.such.host.invalid/v1 feedback.model=tiny",
             "no.such.host", code=MACHINE),
        case("an address that is none", f"{ASK} feedback.base_url=nonsense feedback.model=tiny", "feedback.base_url"),
        case("an address of files", f"{ASK} feedback.base_url=ftp://x/v1 feedback.model=tiny", "feedback.base_url"),
        case("an empty address", f"{ASK} feedback.base_url= feedback.model=tiny", "feedback.base_url"),
        case("a port past all ports", f"{ASK} feedback.base_url=http://127.0.0.1:99999/v1 feedback.model=tiny",
             "feedback.base_url|99999"),
        server("that wants a key", "401", "401|key"),
        server("that forbids", "403", "403|key|forbid"),
        server("that knows no such place", "404", "404|base_url|/v1"),
        server("that answers with a page", "html", "base_url|HTML|JSON"),
        server("that answers with nonsense", "nonsense", "base_url|JSON|answer"),
        server("that lists another model", "other", "tiny", "another-model"),
        server("that answers as another model", "liar", "tiny", "another-model", built=FIRST),
        server("that fails", "500", "500|failed|error", code=MACHINE),
        server("that is loading", "503", "503|loading|Loading", code=MACHINE),
        server("that hangs up", "drop", "connection|answer|Connection|base_url", code=MACHINE),
        server("that never ends its answer", "slow", "time|answer|timeout", code=MACHINE),
        server("whose money is spent", "quota", "quota|insufficient|credit", built=FIRST),
        server("that echoes half of the key", "echo", r"\*\*\*|key", more="feedback.api_key_env=JUDGE_KEY",
               environment={"JUDGE_KEY": "zq9-long-secret-tail"}),
        case("an empty model", f"{ASK} feedback.base_url=SERVER/good/v1 feedback.model=", "feedback.model"),
        server("with a variable that is not set", "good", "NOT_SET_AT_ALL", more="feedback.api_key_env=NOT_SET_AT_ALL"),
        case("OpenAI without its key", "experiment=smoke feedback=openai dry_run=false stages=[feedback]",
             "OPENAI_API_KEY", environment={"OPENAI_API_KEY": None}),
        case("a judge of rewards that is not there", "experiment=direct_rlaif reward=judge_server "
             "reward.engine.base_url=http://127.0.0.1:9/v1 reward.engine.model=tiny stages=[ppo]",
             "127.0.0.1:9|reward.engine", code=MACHINE),
        case("a budget below zero", f"{ASK} feedback.budget_usd=-1 feedback.model=tiny", "budget_usd"),
    ],
}  # fmt: skip
