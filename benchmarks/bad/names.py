"""Names with markup, escapes, formulas, separators or hundreds of letters."""

from __future__ import annotations

from bad.case import case

LONG = "n" * 300

CASES = {
    "names": [
        case("a run of 300 letters", f"name={LONG} dry_run=true", "name", "100 bytes"),
        case("a run that is a parent folder", "name=.. dry_run=true", "name"),
        case("a run that is this folder", "name=. dry_run=true", "name"),
        case("a run with a separator", "name=a/b dry_run=true", "name"),
        case("a run with a blank", ["name=a b", "dry_run=true"], "name"),
        case("a run with an escape", ["name='a\x1b[2Jb'", "dry_run=true"], "name"),
        case("a run with markup", ["name='[red]x'", "dry_run=true"], r"name='\[red\]x'"),
        case("a store of 300 letters", f"paths.store={LONG} stages=[data]", r"paths\.store", "255|shorter|bytes"),
        case("runs of 300 letters", f"paths.runs={LONG} stages=[data]", r"paths\.runs", "255|shorter|bytes"),
        case("a data file with markup", ["data=jsonl", "data.path='[bold]x[/]'", "stages=[data]"], r"\[bold\]x\[/\]"),
        case("a data file with an escape", ["data=jsonl", "data.path='a\x1b]0;t\x07'", "stages=[data]"], r"\\x1b"),
        case("a data file of 300 letters", f"data=jsonl data.path={LONG} stages=[data]", r"data\.path"),
        case("a stage with a mark of direction", ["stages=['\u202epm']", "dry_run=true"], "stages"),
        case("a group with an option of markup", ["scalarizer='[/]'", "dry_run=true"], r"\[/\]|scalarizer"),
        case("a principle that is a path", ["+principles.definitions={'../x':{question:q,description:d,covers:[]}}",
                                            "dry_run=true"], r"\.\./x|principles"),
        case("a policy of the name of ours", ["+eval.policies={sft:model}", "dry_run=true"], "eval.policies", "sft"),
        case("a variable that cannot be", "feedback=server feedback.api_key_env=1-x dry_run=true", "api_key_env"),
    ],
}  # fmt: skip
