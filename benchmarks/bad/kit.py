"""What the cases share: a tiny random model, a finished run without models, a server with bad manners."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from morlaif.launch.processes import die_with_parent

POLICIES = ("sft", "morlaif", "rlaif")


def tiny_model(folder: Path) -> Path:
    """A Llama of 32 × 2 with random weights, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    marks = ["<pad>", "<s>", "</s>"]
    vocabulary = {word: k for k, word in enumerate([*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=marks[0], bos_token=marks[1], eos_token=marks[2],
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    template = folder / "chat_template.jinja"  # beside the tokenizer's config; cases put theirs into that
    if template.is_file():
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template.read_text()}))
        template.unlink()
    return folder


def finished_run(folder: Path) -> Path:
    """`folder`/store and `folder`/runs/finished: an evaluation, a page, a form for raters and Ann's answers to it."""
    from morlaif.compose import look_ahead, register
    from morlaif.pipeline.record import Run
    from morlaif.planning.plan import plan
    from morlaif.units.store import Store

    register()
    words = [f"paths.store={folder / 'store'}", f"paths.runs={folder / 'runs'}"]
    made = look_ahead(argparse.Namespace(config_dir=None, overrides=words, multirun=False))[0][0]
    record = Run.open(folder / "runs" / "finished", made.config, "morlaif", [])
    units = plan(made.config)
    record.plan(units)
    record.close("succeeded")
    page = '<nav><a href="#run">Run</a></nav><main><section id="run"><!--run-->x<!--/run--></section></main>'
    rows = [
        {
            "prompt_id": f"{k:016x}", "messages": [{"role": "user", "content": f"What of dish {k}?"}],
            "responses": {who: {"text": f"{who} would boil dish {k}.", "tokens": 6} for who in POLICIES},
        }
        for k in range(20)
    ]  # fmt: skip
    store = Store(made.config.paths.store)
    arms = {name: {"labels": "principles", "models": [], "title": name} for name in POLICIES[1:]}
    contents = {"evaluate": {"responses.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
                             "details.json": json.dumps({"arms": arms})},
                "report": {"report.html": page}}  # fmt: skip
    for name, files in contents.items():

        def write(out: Path, keep: Path, files: dict[str, str] = files) -> dict[str, Any]:
            for file, text in files.items():
                (out / file).write_text(text)
            return {}

        store.build(units.by_name[name], write)
    (record.folder / "report.html").write_text(page)
    _rated(made.config, record.folder)
    return folder


def _rated(config: Any, run: Path) -> None:
    from rich.console import Console

    from morlaif.pipeline.human import rate

    study = config.human.model_copy(update={"action": "export", "run": "finished", "prompts": 5})
    with open(os.devnull, "w") as nowhere:
        rate(config.model_copy(update={"human": study}), "finished", Console(file=nowhere))
    key = json.loads((run / "human" / "key.json").read_text())
    rows = [{"item": id_, "answer": "a" if item["a"] in ("morlaif", "on_topic") else "b", "seconds": 3}
            for id_, item in key["items"].items()]  # fmt: skip
    answers = {"form": key["form"], "rater": "Ann", "answers": rows}
    (run / "human" / "answers" / "Ann.json").write_text(json.dumps(answers))


# --- the server -----------------------------------------------------------------------------------------------------


class Manners(BaseHTTPRequestHandler):
    """The first part of the path says how a request is answered."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer()

    def _answer(self) -> None:
        manner, listing = self.path.split("/")[1], self.path.endswith("/models")
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        errors = {
            "401": (401, "Incorrect API key provided: sk-abc***wxyz."), "403": (403, "not for you"),
            "404": (404, "no such route"), "500": (500, "it broke"), "503": (503, "Loading model"),
            "quota": (429, "You exceeded your current quota"), "echo": (401, f"bad API key {key[:5]}***{key[-4:]}"),
        }  # fmt: skip
        if manner in errors:
            code, text = errors[manner]
            kind = "insufficient_quota" if manner == "quota" else None
            return self._send(code, json.dumps({"error": {"message": text, "type": kind, "code": kind}}))
        if manner.startswith("reply-") and not listing:
            return self._odd(manner)
        if manner == "list-500" and listing:
            return self._send(500, json.dumps({"error": {"message": "it broke"}}))
        match manner:
            case "html":
                self._send(200, "<!doctype html><title>Welcome</title>", "text/html")
            case "nonsense":
                self._send(200, '{"hello": [1, 2')
            case "drop":
                self.close_connection = True
            case "slow":
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                time.sleep(30)
            case _:
                self._good(manner, listing)

    def _odd(self, manner: str) -> None:
        whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny"}
        words = {"role": "assistant", "content": "Well, both."}
        nan = [{"token": mark, "logprob": float("nan"), "bytes": None, "top_logprobs": []} for mark in "AB"]
        nan = [{**nan[0], "top_logprobs": nan}]
        code, value = {
            "reply-null": (200, None),
            "reply-empty": (200, whole | {"choices": []}),
            "reply-choice": (200, whole | {"choices": [None]}),
            "reply-nan": (200, whole | {"choices": [{"index": 0, "finish_reason": "stop", "message": words,
                                                     "logprobs": {"content": nan}}]}),
            "reply-words": (200, whole | {"choices": [{"index": 0, "finish_reason": "stop", "message": words,
                                                       "logprobs": None}]}),
            "reply-error": (200, {"error": {"message": "CUDA out of memory", "code": 500}}),
            "reply-400": (400, {"error": {"message": "maximum context length is 16 tokens", "type": "BadRequest"}}),
            "reply-404": (404, {"error": {"message": "no such model: tiny", "code": "model_not_found"}}),
        }[manner]  # fmt: skip
        self._send(code, json.dumps(value))

    def _good(self, manner: str, listing: bool) -> None:
        name = {"other": "another-model", "liar": "another-model"}.get(manner, "tiny")
        if listing:
            listed = ["another-model"] if manner == "other" else ["tiny"]
            data = [{"id": one, "object": "model"} for one in listed]
            return self._send(200, json.dumps({"object": "list", "data": data}))
        top = [{"token": mark, "logprob": lp, "bytes": None} for mark, lp in (("A", -0.5), ("B", -1.0))]
        content = [{"token": "A", "logprob": -0.5, "bytes": None, "top_logprobs": top}]
        choice = {"index": 0, "finish_reason": "length", "logprobs": {"content": content},
                  "message": {"role": "assistant", "content": "A"}}  # fmt: skip
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        self._send(200, json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": name,
                                    "choices": [choice], "usage": usage}))  # fmt: skip

    def _send(self, code: int, text: str, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve() -> tuple[int, str]:
    """Start the server in a process of its own; its id and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Manners)
    address = f"http://127.0.0.1:{server.server_port}"
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        server.serve_forever()
        os._exit(0)
    server.server_close()
    return pid, address
