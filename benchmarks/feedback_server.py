"""A small fast chat-completions server for the feedback benchmarks: `python benchmarks/feedback_server.py LATENCY
PER_MINUTE`.

Written on asyncio alone, so that it takes little of the machine that it is measured on. It prints its port, counts what
it receives, and tells its counts at GET /count (then `?reset` clears them). More than PER_MINUTE requests in any
minute (0: no limit) get a 429.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections import Counter, deque

received = refused = 0
answered: Counter[str] = Counter()
window: deque[float] = deque()
times: list[float] = []  # of requests that were taken
refusals: list[float] = []
REASONS = {200: "OK", 429: "Too Many Requests"}


def completion(body: dict) -> dict:
    digest = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
    a = -0.05 - digest[0] / 100
    top = [{"token": t, "logprob": x, "bytes": None} for t, x in (("A", a), ("B", -0.05 - digest[1] / 100))]
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"},
            "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
        }],
        "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
    }  # fmt: skip


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float, limit: int) -> None:
    global received, refused
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode("latin-1").split("\r\n")
            length = next((int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length:")), 0)
            raw = await reader.readexactly(length)
            status, extra = 200, ""
            if lines[0].startswith("GET"):
                twice = sum(count - 1 for count in answered.values())
                reply = {
                    "received": received,
                    "refused": refused,
                    "answered": sum(answered.values()),
                    "twice": twice,
                    "times": times,
                    "refusals": refusals,
                }
                if "reset" in lines[0]:
                    received = refused = 0
                    answered.clear()
                    times.clear()
                    refusals.clear()
                    window.clear()
            else:
                now = time.monotonic()
                received += 1
                while window and window[0] < now - 60:
                    window.popleft()
                if limit and len(window) >= limit:
                    refused += 1
                    refusals.append(now)
                    status, extra = 429, f"retry-after: {max(0.0, window[0] + 60 - now):.2f}\r\n"
                    reply = {"error": {"message": "too many requests", "code": "rate_limit_exceeded"}}
                else:
                    window.append(now)
                    times.append(now)
                    await asyncio.sleep(latency)
                    body = json.loads(raw)
                    reply = completion(body)
                    answered[hashlib.sha256(raw).hexdigest()] += 1
            data = json.dumps(reply).encode()
            writer.write(
                f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n{extra}"
                f"content-length: {len(data)}\r\n\r\n".encode()
                + data
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(latency: float, limit: int) -> None:
    server = await asyncio.start_server(lambda r, w: serve(r, w, latency, limit), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
