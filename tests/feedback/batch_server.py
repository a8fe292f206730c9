"""The batch interface of a server on loopback: files, batches, and what may go wrong with them."""

from __future__ import annotations

import email.parser
import json
import re
from collections.abc import Callable

from chat_server import ChatServer, send, send_bytes


class BatchServer(ChatServer):
    """`fate(n, body)` names what becomes of the n-th line (from 0): None (answered), "expired", "server",
    "content_filter".

    A batch stays in progress for `looks` retrievals. `max_tokens` refuses batches while more bytes than that are open.
    """

    def __init__(self, fate: Callable[[int, dict], str | None] | None = None, looks: int = 1, **more) -> None:
        super().__init__(**more)
        self.fate, self.looks = fate or (lambda n, body: None), looks
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.lines = 0  # in all batches
        self.die_after_create = False

    def _serve(self, handler) -> None:
        path = handler.path.split("?")[0].removeprefix("/v1")
        raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        with self.lock:
            if path == "/files":
                return send(handler, 200, self._upload(raw, handler.headers["content-type"]))
            if path == "/batches" and handler.command == "POST":
                batch = self._create(json.loads(raw))
                if self.die_after_create:  # the reply is lost
                    handler.close_connection = True
                    return handler.connection.close()
                return send(handler, 200, batch)
            if path == "/batches":
                return send(handler, 200, {"object": "list", "data": list(self.batches.values()), "has_more": False})
            if found := re.fullmatch(r"/batches/(\w+)", path):
                return send(handler, 200, self._advance(found[1]))
            if found := re.fullmatch(r"/files/(\w+)/content", path):
                return send_bytes(handler, 200, self.files[found[1]])
        if path == "/chat/completions":
            handler.rfile = _Again(raw)
            return super()._serve(handler)
        return send(handler, 404, {"error": {"message": "no such path"}})

    def _tell(self, handler) -> None:
        if handler.path in self.told or handler.path.endswith("/models"):
            return super()._tell(handler)
        return self._serve(handler)

    def _upload(self, raw: bytes, kind: str) -> dict:
        whole = email.parser.BytesParser().parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + raw)
        part = next(p for p in whole.get_payload() if p.get_param("name", header="content-disposition") == "file")
        id = f"file{len(self.files)}"
        self.files[id] = part.get_payload(decode=True)
        return {
            "id": id,
            "object": "file",
            "bytes": 1,
            "created_at": 0,
            "filename": "x",
            "purpose": "batch",
            "status": "ok",
        }

    def _create(self, body: dict) -> dict:
        id = f"batch{len(self.batches)}"
        self.batches[id] = {
            "id": id, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
            "completion_window": "24h", "created_at": 0, "status": "in_progress", "metadata": body["metadata"],
            "left": self.looks,
        }  # fmt: skip
        return self.batches[id]

    def _advance(self, id: str) -> dict:
        batch = self.batches[id]
        if batch["status"] == "in_progress" and (batch := batch | {"left": batch["left"] - 1})["left"] < 0:
            good, bad, expired = [], [], False
            for line in self.files[batch["input_file_id"]].splitlines():
                row = json.loads(line)
                self.lines, fate = self.lines + 1, self.fate(self.lines, row["body"])
                expired |= fate == "expired"
                (bad if fate else good).append(json.dumps(self._result(row, fate)))
            good.reverse()  # order means nothing
            for name, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    batch[name] = f"file{len(self.files)}"
                    self.files[batch[name]] = "\n".join(lines).encode()
            batch["status"] = "expired" if expired else "completed"
        self.batches[id] = batch
        return batch

    def _result(self, row: dict, fate: str | None) -> dict:
        made = {"id": "r", "custom_id": row["custom_id"], "response": None, "error": None}
        if fate == "expired":
            return made | {"error": {"code": "batch_expired", "message": "This request could not be executed in time."}}
        if fate == "server":
            return made | {"response": {"status_code": 500, "body": {"error": {"message": "trouble"}}}}
        if fate == "content_filter":
            error = {"error": {"code": "content_filter", "message": "no"}}
            return made | {"response": {"status_code": 400, "body": error}}
        self.lock.release()
        try:
            body = self._reply(row["body"], None)
        finally:
            self.lock.acquire()
        return made | {"response": {"status_code": 200, "request_id": "q", "body": body}}


class _Again:
    """A body that has been read already, to be read once more."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def read(self, _: int) -> bytes:
        return self._raw
