"""Keys, groups and options that do not exist, values of the wrong kind, nulls, Hydra's own syntax."""

from __future__ import annotations

from bad.case import Case, case


def dry(name: str, words: str | list[str], *wants: str, **more) -> Case:
    words = words.split() if isinstance(words, str) else words
    return case(name, [*words, "dry_run=true"], *wants, **more)


TYPOS = [
    dry("a group", "pmm=lora", "'pmm'", "'pm'"),
    dry("an option", "scalarizer=maxmin", "scalarizer=maxmin", "max_min"),
    dry("an option of hardware", "hardware=gpuu", "hardware=gpuu", "'gpu'"),
    dry("an option of data", "data=json", "data=json", "'jsonl'"),
    dry("an option of feedback", "feedback=opanai", "feedback=opanai", "'openai'"),
    dry("an option of tracking", "tracking=wandbb", "tracking=wandbb", "'wandb'"),
    dry("an experiment", "experiment=smokee", "experiment=smokee", "'smoke'"),
    dry("a sweep", "sweep=scalarizer", "sweep=scalarizer", "'scalarizers'"),
    dry("a key", "ppo.stepz=5", "'ppo.stepz'", "'ppo.steps'"),
    dry("a key with a plus", "+ppo.stepz=5", "'ppo.stepz'", "'ppo.steps'"),
    dry("a key with two pluses", "++sft.learning_rat=1", "'sft.learning_rat'", "'sft.learning_rate'"),
    dry("a key two letters off", "+pm.max_lenght=3", "'pm.max_lenght'", "'pm.max_length'"),
    dry("a key below a key", "+pm.lora.rr=4", "'pm.lora.rr'", "'pm.lora.r'"),
    dry("a key taken away", "~ppo.steps", "ppo.steps", "missing"),
    dry("a group taken away", "~data", "data", "missing|must be given"),
    dry("a plus before a key that is there", "+seed=3", "seed", "plus"),
    dry("a stage", "stages=[pmm]", "'pmm'", "'pm'"),
    dry("an arm", "arms.select=[morlai]", "arms.select", "morlaif"),
    dry("an arm by its former name", "arms=[multi]", "arms", "arms.select=[morlaif]"),
    dry("a principle", "principles.select=[honestyy]", "principles", "'honestyy'"),
    dry("a principle's weight", ["weights.method=given", "weights.values={helpfulnes:1}"], "helpfulnes'", "ness"),
    dry("a principle without weight", "weights.zero=[sycofancy]", "weights.zero", "'sycofancy'", "'sycophancy'"),
    dry("two mistakes", "ppo.steps=x pm.epochs=y", "ppo.steps='x'", "pm.epochs='y'", lines=2),
    dry("a key of another option", "feedback.base_url=http://x", "feedback.base_url"),
]

TYPES = [
    dry("a word as a seed", "seed=one", "seed='one'", "integer"),
    dry("a fraction as a seed", "seed=1.5", "seed=1.5", "integer"),
    dry("a list as a name", "name=[1]", "name="),
    dry("a mapping as a number", "ppo.steps={a:1}", "ppo.steps", "integer"),
    dry("a number as a mapping", "ppo.kl=3", "ppo.kl=3"),
    dry("a mapping as a switch", "ppo.whiten_rewards={a:1}", "ppo.whiten_rewards"),
    case("a word as a switch", "dry_run=maybe", "dry_run='maybe'", "boolean|true"),
    dry("a list as a path", "paths.store=[a]", "paths.store"),
    dry("a word among the betas", "ppo.optimizer.betas=[a,b]", "ppo.optimizer.betas", lines=2),
    dry("one beta", "ppo.optimizer.betas=[0.9]", "ppo.optimizer.betas"),
    dry("a text as a list of words", "ppo.stop=3", "ppo.stop"),
    dry("an option that is none of the choices", "ppo.advantage=gaee", "ppo.advantage='gaee'", "'gae'"),
    dry("a scheduler that is none", "sft.scheduler=cosin", "sft.scheduler", "cosine"),
    dry("a judge that is none", "eval.judge.source=rule", "eval.judge", "rules"),
    dry("a definition without its question", "+principles.definitions.x={description:y,covers:[]}",
        "principles.definitions.x", lines=2),
    dry("a definition with a name of capitals", "+principles.definitions.NoGo={question:q,description:d,covers:[]}",
        "NoGo"),
]  # fmt: skip

OBJECTIVES = [
    dry("below zero", "eval.scalarizers.soft_max_min.params.temperature=-1", "eval.scalarizers.soft_max_min.params"),
    dry("a text", "eval.scalarizers.lower_quantile.params.fraction=abc", "eval.scalarizers.lower_quantile.params"),
    dry("a typo", "+eval.scalarizers.lower_quantile.params.fractoin=.3", "fractoin", "Did you mean 'fraction'"),
]

NULLS = [
    dry("a group", "pm=null", "pm=null"),
    dry("a number", "ppo.steps=null", "ppo.steps", "integer"),
    dry("a switch", "ppo.whiten_rewards=null", "ppo.whiten_rewards"),
    dry("a mapping", "ppo.kl=null", "ppo.kl"),
    dry("the store", "paths.store=null", "paths.store"),
    dry("an empty store", "paths.store=", "paths.store"),
    dry("empty runs", "paths.runs=", "paths.runs"),
    dry("an empty name", "name=", "name"),
    dry("no stage", "stages=[]", "stages"),
    dry("no arm", "arms.select=[]", "arms.select"),
    dry("no principle", "principles.select=[]", "principles"),
    dry("an arm twice", "arms.select=[morlaif,morlaif]", "arms", "twice"),
    dry("a principle twice", "principles.select=[toxicity,toxicity]", "principles", "twice|once"),
    dry("a data file", "data=jsonl stages=[data]", "data.path", "null|name the file"),
    dry("a dataset", "data=hub stages=[data]", "data.id", "null|name a dataset"),
    dry("a file of labels", "data=jsonl data.path=a.jsonl feedback=jsonl stages=[feedback]", "feedback.path",
        files={"a.jsonl": '{"prompt": "p", "chosen": "c", "rejected": "r"}\n' * 2}),
    dry("a judge's folder", "feedback=hf", "feedback.(engine.)?path"),
    dry("the reward models", "pm=pretrained arms.select=[morlaif]", "pm.paths"),
]  # fmt: skip

SYNTAX = [
    dry("a word alone", "seed", "seed"),
    dry("a value alone", "=3", "=3|key"),
    dry("a list that is not closed", ["ppo.stop=[a"], "ppo.stop"),
    dry("a quote that is not closed", ["name='x"], "name"),
    dry("several values without -m", "seed=1,2", "seed=1,2", "-m"),
    dry("a variable that is not set", "name=${oc.env:NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
    dry("a reference to nothing", "name=${nothing.here}", "nothing"),
    dry("a reference to itself", "seed=${seed}", "seed", lines=2),
    dry("a resolver that is none", "name=${nosuch:3}", "nosuch"),
    dry("a value that is missing", "seed=???", "seed"),
    case("a flag that is none", "--confgi job", "--confgi", lines=9),
    dry("a folder of presets that is none", "--config-dir nowhere", "nowhere"),
    dry("a config that is none", "--config-name nothing", "--config-name"),
    dry("as a process", "ppo.stepz=5", "'ppo.steps'", real=True),
]

CASES = {"typos": TYPOS, "types": TYPES, "objectives": OBJECTIVES, "nulls": NULLS, "syntax": SYNTAX}
