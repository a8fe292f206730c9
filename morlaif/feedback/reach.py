"""Whether a server can be asked, and who answers there: known in two seconds, before anything is built or paid.

No torch, and no client library either, which takes longer to import than the server takes to answer.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from morlaif.errors import UserError
from morlaif.feedback.served import AUTO, NotServed, Served, find, only
from morlaif.feedback.settings import OpenAISettings
from morlaif.texts import keep_secret, redact

T = TypeVar("T")

LIMIT = 2.0  # seconds for all that a server is asked before a run
MOST = 8_000_000  # bytes of a reply that are read
FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance")
LOADING = (429, 502, 503, 504)  # it is there, and will answer later

State = Literal["up", "loading", "away", "other", "wrong"]


@dataclass(frozen=True)
class ServerCheck:
    """What came of looking at a server."""

    state: State  # away: no answer; other: another model than the one asked for; wrong: what no waiting will mend
    line: str = ""  # what is wrong, and what would be right; or what it waits for
    served: Served | None = None  # None: it does not tell


def server_problems(key: str, settings: OpenAISettings, *, away_is_one: bool = True) -> Iterator[str]:
    """What would keep a run from asking this server, a finished line each, within `LIMIT` seconds.

    Args:
        key: of `settings` in the config, such as "feedback" or "eval.judge.engine".
        away_is_one: whether it is a problem if nothing answers; not where the ledger may know all that will be asked.
    """
    try:
        api_key(settings, key)
    except UserError as error:
        yield str(error)
        return
    found = look(settings, key)
    if found.state in ("wrong", "other") or (found.state == "away" and away_is_one):
        yield found.line


def api_key(settings: OpenAISettings, key: str = "feedback") -> str:
    """The key from the environment, read now; from then on no text of this process shows it.

    Raises:
        UserError: the variable is not set, or holds what no request can carry.
    """
    if settings.api_key_env is None:
        return "none"  # the client insists on one; a local server ignores it
    value = os.environ.get(settings.api_key_env, "").strip()
    if not value:
        raise UserError(
            f"{key}.api_key_env: the environment variable {settings.api_key_env} is not set. "
            f"Export it with the key for {settings.base_url}, or give null if that server wants none."
        )
    if not value.isascii() or not value.isprintable():
        raise UserError(
            f"{key}.api_key_env: the environment variable {settings.api_key_env} holds characters that no key has "
            "(line breaks, or others than ASCII). Export it again."
        )
    return keep_secret(value)


_seen: dict[tuple[Any, ...], tuple[float, ServerCheck]] = {}
FRESH = 10.0  # seconds during which a second look in one process gives what the first one saw


def look(settings: OpenAISettings, key: str = "feedback", limit: float = LIMIT, fresh: float = FRESH) -> ServerCheck:
    """Ask the server for its models, and what it tells about the one that is wanted."""
    secret = _secret(settings)
    name = (settings.base_url, settings.model, settings.model_alias, secret, key)
    if (before := _seen.get(name)) and time.monotonic() - before[0] < fresh:
        return before[1]
    found = _look(settings, key, limit, secret)
    _seen[name] = (time.monotonic(), found)
    return found


def _secret(settings: OpenAISettings) -> str | None:
    value = os.environ.get(settings.api_key_env, "").strip() if settings.api_key_env else ""
    return keep_secret(value) or None


def _look(settings: OpenAISettings, key: str, limit: float, secret: str | None) -> ServerCheck:
    base, deadline = settings.base_url.rstrip("/"), time.monotonic() + limit
    where = f"{key}.base_url={settings.base_url}"

    def get(url: str) -> Response:
        return within(deadline, lambda: fetch(url, secret, max(0.1, deadline - time.monotonic())))

    def ask(path: str) -> Any:
        response = get(root(base) + path)
        if response.status in LOADING:
            raise ConnectionError(f"{path}: status {response.status}")
        try:
            return response.json()
        except ValueError:  # it does not tell
            return None

    try:
        response = get(f"{base}/models")
    except Exception as error:
        return ServerCheck(*_silence(where, settings.base_url, error, limit))
    if response.status == 402 or (response.status == 429 and any(code in FATAL_CODES for code in response.codes())):
        words = redact(response.words())
        return ServerCheck("wrong", f"{where}: the account has no credit left ({words}). Top up, then run again.")
    if response.status in LOADING:
        words = redact(response.words())
        return ServerCheck(
            "loading", f"{where}: the server is there, and not ready yet ({response.status} {words})".rstrip()
        )
    if 300 <= response.status < 400:
        to = response.location.removesuffix("/models") or "another address"
        return ServerCheck("wrong", f"{where}: the server redirects to {to}. Give that address.")
    if response.status == 401:
        words = redact(response.words())
        if settings.api_key_env:
            return ServerCheck("wrong", f"{key}.api_key_env: the key in {settings.api_key_env} was refused ({words}).")
        return ServerCheck(
            "wrong", f"{key}.api_key_env: the server wants a key ({words}). Name the variable that holds it."
        )
    if response.status >= 500 and response.status != 501:  # 501: it lists no models
        words = redact(response.words())
        return ServerCheck(
            "away", f"{where}: the server is ill, and answers {response.status} ({words}). Mend or restart it."
        )
    if response.status == 403 and (refused := _refused(base, secret, deadline)) is not None:
        allowed = f"the key in {settings.api_key_env} may not ask" if settings.api_key_env else "it wants a key"
        where = f"{key}.api_key_env: the server at {settings.base_url}"
        return ServerCheck("wrong", f"{where} forbids it: {allowed} ({refused}).")
    try:
        models = response.json() if response.status == 200 else None
    except ValueError:
        return ServerCheck(
            "wrong", f"{where}: {response.kind} in place of JSON: no chat completions server answers there."
        )
    if models is None or not isinstance(models, dict | list) or (isinstance(models, dict) and "data" not in models):
        if better := _better(base, get):
            return ServerCheck("wrong", f"{where}: no such path at this server. Did you mean {better}?")
        if settings.model == AUTO:
            return ServerCheck(
                "wrong", f"{key}.model=auto: the server at {settings.base_url} lists no models. Name its model."
            )
        return ServerCheck("up")
    try:
        return ServerCheck("up", served=find(models, _wanted(settings, models), settings.model_alias, ask))
    except NotServed as error:
        if settings.model == AUTO:
            return ServerCheck("wrong", f"{key}.model=auto: the server at {settings.base_url} {error}")
        allow = f"{key}.model_alias=any takes whatever it serves."
        return ServerCheck(
            "other", f"{key}.model='{settings.model}': the server at {settings.base_url} {error} {allow}"
        )
    except Exception as error:  # it falls silent; half of what it tells would be another model's mark
        return ServerCheck(*_silence(where, settings.base_url, error, limit))


def _wanted(settings: OpenAISettings, models: Any) -> str:
    """The name of the model that is meant.

    Raises:
        NotServed: the one that the server lists is meant, and it lists none or several.
    """
    return only(models) if settings.model == AUTO else settings.model


def _refused(base: str, secret: str | None, deadline: float) -> str | None:
    """What a server says that forbids questions too, and not the list of its models alone; asked without a question,
    which costs nothing."""
    try:
        url = f"{base}/chat/completions"
        asked = within(deadline, lambda: fetch(url, secret, max(0.1, deadline - time.monotonic()), b"{}"))
    except Exception:
        return None
    return redact(asked.words()) or str(asked.status) if asked.status in (401, 403) else None


def _better(base: str, get: Callable[[str], Response]) -> str | None:
    """A near address at which models are listed."""
    bare = re.sub(r"/(chat/completions|completions|chat|models)$", "", base)
    for url in dict.fromkeys([bare, re.sub(r"(/v1)+$", "/v1", bare), f"{bare}/v1", f"{root(base)}/v1"]):
        if url != base:
            try:
                listed = get(f"{url}/models").json()
            except Exception:
                continue
            if isinstance(listed, dict) and "data" in listed:
                return url
    return None


def root(base: str) -> str:
    """The address without its path."""
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Response:
    status: int
    headers: Any
    body: bytes

    @property
    def location(self) -> str:
        return str(self.headers.get("location") or "")

    @property
    def kind(self) -> str:
        return "an HTML page" if b"<html" in self.body[:2000].lower() else "something" if self.body else "nothing"

    def json(self) -> Any:
        """Raises: ValueError: it is none."""
        if self.status != 200:
            raise ValueError(self.status)
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deep") from None

    def codes(self) -> tuple[Any, Any]:
        """By which an error is known."""
        try:
            error = json.loads(self.body)["error"]
            return error.get("code"), error.get("type")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None, None

    def words(self) -> str:
        """What an error says, on one line."""
        try:
            body = json.loads(self.body)
            error = body.get("error", body)
            reason = error.get("message") if isinstance(error, dict) else error
        except (ValueError, AttributeError, RecursionError):
            reason = "" if b"<" in self.body[:100] else self.body[:200].decode("utf-8", "replace")
        return " ".join("".join(c if c.isprintable() else " " for c in str(reason or "")).split())[:200]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(url: str, secret: str | None, timeout: float, body: bytes | None = None) -> Response:
    """GET `url`, or POST `body` to it; any status is an answer. Proxies of the environment are used, but not for this
    machine itself."""
    handlers: list[Any] = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if is_here(url) else [])]
    headers = {"accept": "application/json", "user-agent": "morlaif"}
    headers |= {} if body is None else {"content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    if secret:
        request.add_unredirected_header("authorization", f"Bearer {secret}")
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            return Response(response.status, response.headers, response.read(MOST))
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read(MOST))


def is_here(url: str) -> bool:
    """Whether the address is one of this machine's own, which no proxy need carry."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def within(deadline: float, work: Callable[[], T]) -> T:
    """What `work` gives, however it hangs (a name server, a reply that drips).

    Raises:
        TimeoutError: not before `deadline`, of the monotonic clock.
    """
    out: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            out.append((True, work()))
        except BaseException as error:
            out.append((False, error))

    thread = threading.Thread(target=run, name="reach", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not out:
        raise TimeoutError
    good, value = out[0]
    if good:
        return value
    raise value


def _silence(where: str, url: str, error: BaseException, limit: float) -> tuple[State, str]:
    """Why there was no answer, and what to do."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return explain_silence(where, url, reason, limit)


def explain_silence(where: str, url: str, reason: Any, limit: float) -> tuple[State, str]:
    """For the error under a connection that failed: whether waiting may help, and a line."""
    proxy = _proxy(url)
    through = f" through the proxy {proxy} (environment; NO_PROXY leaves a host out)" if proxy else ""
    host = urlsplit(url).hostname
    if isinstance(reason, ssl.SSLError) or "SSL" in type(reason).__name__:
        return "wrong", f"{where}: {_tls(reason)}"
    if isinstance(reason, socket.gaierror):
        return "away", f"{where}: no host '{host}' is known{through}. Check the address, and the network."
    if isinstance(reason, ConnectionRefusedError):
        advice = "Start the server, or give its address."
        return "away", f"{where}: nothing listens there (connection refused{through}). {advice}"
    if isinstance(reason, TimeoutError):
        advice = "Check the address, and whether the server hangs."
        return "away", f"{where}: no answer within {limit:g} s{through}. {advice}"
    if isinstance(reason, http.client.BadStatusLine | http.client.HTTPException | ConnectionError):
        secure = " It may want https://." if url.startswith("http://") else ""
        return "away", f"{where}: the connection was closed without an answer{through}.{secure}"
    words = " ".join(str(reason).split())[:200] or type(reason).__name__
    return "away", f"{where}: no answer ({words}){through}. Check the address, and the network."


def _tls(reason: Any) -> str:
    words = str(reason)
    if "WRONG_VERSION_NUMBER" in words or "HTTP_REQUEST" in words or "RECORD_LAYER" in words or "EOF" in words:
        return "no TLS is spoken there. Give http:// in place of https://."
    if "CERTIFICATE_VERIFY_FAILED" in words:
        why = words.split("certificate verify failed:")[-1].split("(_ssl")[0].strip() or "not trusted"
        return f"its certificate is not trusted ({why}). Name the authority's file in the variable SSL_CERT_FILE."
    return f"TLS failed ({' '.join(words.split())[:160]})."


def _proxy(url: str) -> str | None:
    """The proxy of the environment that a request to `url` would take, without a name and password in it."""
    if is_here(url):
        return None
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    found = urllib.request.getproxies().get(parts.scheme)
    return found and re.sub(r"//[^@/]*@", "//", found)
