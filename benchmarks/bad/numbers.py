"""Numbers that are none, have no end, or mean nothing in their place: in every group that has any."""

from __future__ import annotations

from bad.case import Case, case

# key, the values that it must refuse, what else the command needs
REFUSED: list[tuple[str, str, str]] = [
    ("seed", "-1 99999999999999999999999", ""),
    ("data.sft", "0 -3 1e99", ""),
    ("data.eval", "0", ""),
    ("data.eval_fraction", "0 1 nan", "data=jsonl data.path=a.jsonl"),
    ("data.limit", "0 -1", "data=jsonl data.path=a.jsonl"),
    ("principles.count", "0 -2 13", ""),
    ("feedback.position_bias", "nan inf", ""),
    ("feedback.noise", "-1 inf", ""),
    ("feedback.temperature", "0 nan", ""),
    ("feedback.timeout", "0 -1 nan", "feedback=server"),
    ("feedback.price.input", "-1 nan inf", "feedback=server"),
    ("feedback.concurrency", "0", "feedback=server"),
    ("feedback.top_logprobs", "0 1000", "feedback=server"),
    ("sft.learning_rate", "nan inf -0.1", ""),
    ("sft.batch_size", "0", ""),
    ("sft.max_length", "0", ""),
    ("sft.weight_decay", "nan", ""),
    ("respond.temperature", "nan inf -1", ""),
    ("respond.top_p", "0 1.5 nan", ""),
    ("respond.max_new_tokens", "0", ""),
    ("pm.learning_rate", "inf nan", ""),
    ("pm.epochs", "0 -1 nan", ""),
    ("pm.lora.r", "0", ""),
    ("pm.lora.dropout", "1.5 nan", ""),
    ("pm.max_length", "-5", ""),
    ("pm.margin_scale", "nan", ""),
    ("ppo.steps", "0 -1", ""),
    ("ppo.temperature", "inf nan 0", ""),
    ("ppo.gamma", "1.5 nan", ""),
    ("ppo.lam", "-1 nan", ""),
    ("ppo.kl.coef", "nan inf -1", ""),
    ("ppo.shaping.clip", "nan -1", ""),
    ("ppo.clip_range", "inf nan 0", ""),
    ("ppo.value_coef", "nan", ""),
    ("ppo.optimizer.learning_rate", "nan inf", ""),
    ("ppo.optimizer.betas", "[1,1] [nan,0.9]", ""),
    ("ppo.optimizer.eps", "nan", ""),
    ("ppo.vllm.gpu_memory_utilization", "0 2", ""),
    ("ppo.vllm.group_port", "0 70000", ""),
    ("weights.temperature", "nan", ""),
    ("weights.significance", "2 nan", ""),
    ("eval.confidence", "0 1 nan", ""),
    ("eval.resamples", "0", ""),
    ("eval.reference", "nan inf", ""),
    ("eval.prompts", "0", ""),
    ("hardware.ranks", "0", ""),
    ("hardware.workers", "0 -1", ""),
    ("hardware.threads", "0", ""),
    ("hardware.machine.device_memory", "-1 nan", ""),
    ("human.prompts", "0", ""),
    ("human.repeats", "nan 2", ""),
    ("human.max_failed", "2 nan", ""),
]

CASES: dict[str, list[Case]] = {
    "numbers": [
        case(
            f"{key}={value}", f"{needs} {key}={value} dry_run=true", key.replace(".", r"(\.|: )"),
            lines=2 if key.endswith("betas") else 1, files={"a.jsonl": '{"prompt": "p"}\n{"prompt": "q"}\n'},
        )
        for key, values, needs in REFUSED
        for value in values.split()
    ]
}  # fmt: skip
