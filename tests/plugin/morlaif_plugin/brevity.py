"""A section of the report: how long each policy's responses are."""

from morlaif.report.data import RunData
from morlaif.report.section import Panel, Section, Table


def brevity(run: RunData) -> Section | None:
    facts = run.details.responses
    rows = [(run.label(policy), f"{own.words:.1f}", f"{own.tokens:.1f}") for policy, own in facts.items()]
    table = Table(["policy", "words", "tokens"], rows)
    return Section("brevity", "Brevity", [Panel("Length of a response", "Means over the held-out prompts.", table)])
