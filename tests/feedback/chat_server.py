"""A real HTTP server on loopback that speaks chat completions, judges by a number in the text, and can misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = str | tuple | None
POSITION_BIAS = 0.4


class ChatServer:
    """`fault(n, body)` names what goes wrong with the n-th request (from 0); None: all is well.

    Each option holds "worth <number>"; the log-odds of A are the difference plus POSITION_BIAS.
    """

    def __init__(
        self,
        fault: Callable[[int, dict], Fault] | None = None,
        logprobs: bool = True,
        delay: float = 0.0,
        port: int = 0,
    ) -> None:
        self.fault = fault or (lambda n, body: None)
        self.logprobs = logprobs
        self.delay = delay
        self.told: dict[str, object] = {}  # what a GET is answered with, by path: JSON, or (status, body, headers)
        self.looked: list[str] = []  # paths of GETs
        self.calls_itself: str | None = None  # the model in its replies; None: whatever was asked for
        self.received = 0
        self.answered: Counter[str] = Counter()  # good replies by the hash of the request's body
        self.times: list[float] = []
        self.bodies: list[dict] = []
        self.authorization: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self._released = threading.Event()
        self._connections: list[socket.socket] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                outer._connections.append(self.connection)

            def do_POST(self) -> None:
                outer._serve(self)

            def do_GET(self) -> None:
                outer._tell(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256  # of the default 5, a burst of connections would be dropped and tried again

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a killed client is no news
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def _tell(self, handler: BaseHTTPRequestHandler) -> None:
        self.looked.append(handler.path)
        told = self.told.get(handler.path, (404, {"error": {"message": "File Not Found"}}))
        if told == "hang":
            self._released.wait(30)
            handler.close_connection = True
            return None
        if told == "drip":
            return drip(handler, self._released)
        status, body, headers = (*told, {})[:3] if isinstance(told, tuple) else (200, told, {})
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return send_bytes(handler, status, raw, headers)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def kill(self) -> None:
        """Close, and break off whatever is on its way."""
        self.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            n, self.received = self.received, self.received + 1
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.authorization.add(handler.headers.get("authorization"))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self._respond(handler, n, body)
        finally:
            with self.lock:
                self.in_flight -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, n: int, body: dict) -> None:
        fault = self.fault(n, body)
        time.sleep(self.delay)
        kind, *details = fault if isinstance(fault, tuple) else (fault,)
        if isinstance(kind, int):  # (status, {error fields}, {headers})
            error, headers = (*details, {}, {})[:2]
            return send(handler, kind, {"error": {"message": "no", **error}}, headers)
        if kind == "drop":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return None
        if kind == "hang":
            self._released.wait(details[0] if details else 30)
            handler.close_connection = True
            return None
        if kind == "raw":
            return send_bytes(handler, 200, details[0])
        if kind == "page":
            return send_bytes(handler, 200, b"<!DOCTYPE html><html><body>Sign in</body></html>")
        if kind == "malformed":
            return send_bytes(handler, 200, b'{"choices": [{"mess')
        if kind == "truncated":
            whole = json.dumps(self._completion(body, kind)).encode()
            send_bytes(handler, 200, whole[: len(whole) // 2], length=len(whole))
            handler.close_connection = True
            return None
        if kind == "drip":
            return drip(handler, self._released)
        reply = self._reply(body, kind)
        with self.lock:
            self.answered[fingerprint(body)] += 1
        return send(handler, 200, reply)

    def _reply(self, body: dict, kind: str | None) -> dict:
        return self._completion(body, kind) | ({"model": self.calls_itself} if self.calls_itself else {})

    def _completion(self, body: dict, kind: str | None) -> dict:
        asked = body["messages"][-1]["content"]
        if re.search(r"one whole number from 1 to \d:$", asked):
            return completion(body, *rated(asked, kind, bool(body.get("logprobs") and self.logprobs)))
        if "whole number from 1 to 10" in asked:
            return completion(body, *graded(asked, bool(body.get("logprobs") and self.logprobs)))
        if asked.endswith("yes or no."):  # yes to a reply that says it is fine
            said, other = ("Yes", "No") if "fine." in asked else ("No", "Yes")
            listed = [[(said, -0.1), (other, -2.5)]] if body.get("logprobs") and self.logprobs else None
            return completion(body, said, listed)
        if (form := body.get("response_format")) and form["json_schema"]["name"] == "ratings":
            keys = list(form["json_schema"]["schema"]["properties"])
            parts = [part for k, key in enumerate(keys) for part in (', "' if k else '{"', key, '": ', str(3 + k))]
            listed = [[(part, -0.1)] for part in [*parts, "}"]] if body.get("logprobs") and self.logprobs else None
            return completion(body, "".join([*parts, "}"]), listed)
        gap = judged_gap(asked)
        if form := body.get("response_format"):
            names = list(form["json_schema"]["schema"]["properties"])
            gaps = [gap + leaning(name) for name in names]
            return completion(body, *jointly(names, gaps, bool(body.get("logprobs") and self.logprobs)))
        if "Reason first" in asked:
            return completion(body, *reasoned(gap, bool(body.get("logprobs") and self.logprobs)))
        if body["temperature"] > 0:  # a draw, the same for the same request but for its turn
            with self.lock:
                turn = self.answered[fingerprint(body)]
            u = int(hashlib.sha256(f"{fingerprint(body)}{turn}".encode()).hexdigest()[:8], 16) / 2**32
            gap = 1.0 if u < 1 / (1 + 2.718281828**-gap) else -1.0
        letter = "A" if gap > 0 else "B"
        message: dict = {"role": "assistant", "content": letter}
        choice: dict = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        if kind == "refusal":
            message |= {"content": None, "refusal": "I would rather not."}
        elif kind == "chatter":
            message["content"] = "Both are nice"
            choice["logprobs"] = logprobs([("Both", -0.1), ("The", -3.0)]) if body.get("logprobs") else None
        elif self.logprobs and body.get("logprobs"):
            top = [(letter if letter == "A" else " B", x) for letter, x in letters(gap)] + [("The", -9.0)]
            choice["logprobs"] = logprobs(sorted(top, key=lambda item: -item[1])[: body["top_logprobs"]])
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def drip(handler: BaseHTTPRequestHandler, released: threading.Event) -> None:
    """A byte now and then."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        if released.wait(0.02):
            return


def completion(body: dict, text: str, tokens: list | None) -> dict:
    """A good reply; `tokens` lists for each token its alternatives, the chosen one first."""
    content = [logprobs(top)["content"][0] for top in tokens] if tokens else None
    choice = {
        "index": 0, "finish_reason": "stop", "logprobs": content and {"content": content},
        "message": {"role": "assistant", "content": text},
    }  # fmt: skip
    usage = {"prompt_tokens": 100, "completion_tokens": len(text.split())}
    return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def letters(gap: float) -> list[tuple[str, float]]:
    """Nine tenths of the probability, shared by the two letters at these odds."""
    both = math.log(0.9) - math.log(2 * math.cosh(gap / 2))
    return sorted([("A", both + gap / 2), ("B", both - gap / 2)], key=lambda item: -item[1])


def reasoned(gap: float, listed: bool) -> tuple[str, list | None]:
    """Reasoning that names the other letter too, then the answer."""
    letter, other = ("A", "B") if gap > 0 else ("B", "A")
    words = ["Option", " ", other, " has", " less", ".", " Answer", ":", " "]
    tokens = [[(word, -0.1)] for word in words] + [letters(gap)] if listed else None
    return "".join(words) + letter, tokens


def graded(asked: str, listed: bool) -> tuple[str, list | None]:
    """Twice as likely the nearest grade as each of its neighbours."""
    grade = grade_of(asked.split("\nReply\n")[1])
    top = [(str(g), -1.0 - 0.6931471805599453 * abs(g - grade)) for g in (grade, grade - 1, grade + 1)]
    return str(grade), [top] if listed else None


def rated(asked: str, kind: str | None, listed: bool) -> tuple[str, list | None]:
    """Twice as likely the nearest rating as each of its neighbours; another token than a number first for `chatter`."""
    if kind == "chatter":
        return "I would", [[("I", -0.1), ("The", -3.0)]] if listed else None
    rating = rating_of(asked)
    top = [(str(r), -1.0 - 0.6931471805599453 * abs(r - rating)) for r in (rating, rating - 1, rating + 1)]
    return str(rating), [[*top, ("The", -9.0)]] if listed else None


def rating_of(asked: str) -> int:
    """From 2 to 8: by what the reply says that it is worth, else by the share of its words that begin with a vowel."""
    reply, criterion = asked.split("\nReply\n")[1].split("\nCriterion: ")
    if found := re.findall(r"worth (-?[\d.]+\d)", reply):
        return min(8, max(2, round(5 + float(found[0]))))
    words = [word for word in re.findall(r"[a-z]+", reply.lower()) if len(word) > len(criterion) % 3]
    return 2 + round(6 * sum(word[0] in "aeiou" for word in words) / max(len(words), 1))


def grade_of(text: str) -> int:
    return min(9, max(2, round(5.5 + float(re.findall(r"worth (-?[\d.]+\d)", text)[0]))))


def jointly(names: list[str], gaps: list[float], listed: bool) -> tuple[str, list | None]:
    """A JSON object in the order of the names, written token by token."""
    tokens: list = [[("{", 0.0)]]
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        tokens += [[(", " if i else "", 0.0)], [(f'"{name}"', 0.0)], [(': "', 0.0)], letters(gap), [('"', 0.0)]]
    tokens.append([("}", 0.0)])
    return "".join(top[0][0] for top in tokens), tokens if listed else None


def leaning(name: str) -> float:
    """What a principle adds to the log-odds of A, the same for all pairs."""
    return (sum(map(ord, name)) % 7 - 3) / 10.0


def fingerprint(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def judged_gap(prompt: str) -> float:
    a, b = (float(x) for x in re.findall(r"^\| .*?worth (-?[\d.]+\d)", prompt.split("\nOption A\n")[1], re.M)[:2])
    return a - b + POSITION_BIAS


def logprobs(top: list[tuple[str, float]]) -> dict:
    items = [{"token": token, "logprob": x, "bytes": None} for token, x in top]
    return {"content": [{**items[0], "top_logprobs": items}]}


def send(handler: BaseHTTPRequestHandler, status: int, body: dict, headers: dict | None = None) -> None:
    send_bytes(handler, status, json.dumps(body).encode(), headers)


def send_bytes(handler, status: int, body: bytes, headers: dict | None = None, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body) if length is None else length))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
