"""What real servers tell about themselves, in the shape in which they tell it, with models of our own."""

from __future__ import annotations

from chat_server import ChatServer


def llama_cpp(server: ChatServer, path: str, size: int = 485, template: str = "{{ messages }}") -> None:
    meta = {"vocab_type": 2, "n_vocab": 900, "n_ctx": 2048, "n_ctx_train": 4096, "n_embd": 96, "n_params": size * 2}
    entry = {"id": path, "aliases": [path], "object": "model", "created": id(meta), "owned_by": "llamacpp"}
    entry["meta"] = meta | {"size": size, "ftype": "Q4_K - Medium"}
    old = [{"name": path, "model": path, "digest": "", "type": "model"}]
    server.told["/v1/models"] = {"models": old, "object": "list", "data": [entry]}
    server.told["/props"] = {"model_path": path, "chat_template": template, "build_info": "b1", "total_slots": 2}
    server.calls_itself = path


def vllm(server: ChatServer, name: str, root: str) -> None:
    entry = {"id": name, "object": "model", "created": id(server), "owned_by": "vllm", "root": root, "parent": None}
    server.told["/v1/models"] = {"object": "list", "data": [entry | {"max_model_len": 2048, "permission": []}]}
    server.calls_itself = name


def ollama(server: ChatServer, **digests: str) -> None:
    data = [{"id": f"{name}:latest", "object": "model", "created": 1, "owned_by": "library"} for name in digests]
    server.told["/v1/models"] = {"object": "list", "data": data}
    listed = [{"name": f"{name}:latest", "digest": digest} for name, digest in digests.items()]
    server.told["/api/tags"] = {"models": listed}


def public(server: ChatServer, *names: str) -> None:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "system"} for name in names]
    server.told["/v1/models"] = {"object": "list", "data": data}
