"""Who answers: settled before the first question, by the server or, where it is silent, by what the ledger holds.

Verdicts belong to the model that gave them. Where a server tells its models apart (see `served`), the ledger's keys and
the units' digests hold which one it is, so that another model behind the same address and name has none of its
verdicts. Where it tells nothing but a name, the ledger holds the name that the replies came under, and a reply under
another name ends the run.

Answers from before servers were asked carry no such fingerprint. Those that cost money go to the first model that
is found behind their address and name, once and for all; those that cost nothing are asked for again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
from morlaif.feedback.ledger import Ledger
from morlaif.feedback.reach import FRESH, LIMIT, ServerCheck, look
from morlaif.feedback.reply import Reply
from morlaif.feedback.served import AUTO, Served, allows, same
from morlaif.feedback.settings import OpenAISettings

RECENT = 24 * 3600.0  # seconds for which a server that answered once is believed to come back


def settle(
    settings: OpenAISettings,
    ledger: Path,
    key: str = "feedback",
    *,
    patience: float = 0.0,
    say: Callable[[str], Any] = lambda line: None,
) -> OpenAISettings:
    """`settings` with `served` given: which model answers, or "" where nobody knows.

    Args:
        ledger: its file, which need not exist.
        key: of the settings in the config.
        patience: seconds for which a server that is loading its model is waited for.
        say: hears a line where the server was silent, or something else is worth knowing.

    Raises:
        UserError: the server serves another model than the one asked for; or it is silent, and the ledger holds
            verdicts of several under this address and name.
    """
    if settings.served is not None and settings.model != AUTO:
        return settings
    found, begun = look(settings, key), time.monotonic()
    if found.state == "loading" and patience:
        say(f"{found.line}; waiting, for {patience:g} s at most")
    while found.state == "loading" and time.monotonic() - begun < patience:
        time.sleep(min(1.0, patience))
        found = look(settings, key, fresh=0.0)
    with _reading(ledger) as opened:
        if settings.model == AUTO:
            name = opened.recall(_last(settings)) if opened is not None else None
            name = found.served.name if found.served else name
            if name is None:
                if found.state == "loading":
                    return settings
                raise UserError(found.line)
            settings = settings.model_copy(update={"model": name})
        if settings.served is not None:
            return settings
        known = list(_seen(opened, settings)) if opened is not None else []
        # whose answers carry no fingerprint
        unmarked = opened.recall(_adopted(settings)) if opened is not None else None
        if found.state == "other":
            names = f" {key}.served={' or '.join(known)} takes what is known of the other." if known else ""
            raise UserError(f"{found.line}{names}")
        if found.state == "up":
            id = _effective(opened, settings, found)
            new = bool(id) and not known and not unmarked
            if new and opened is not None and opened.has_answers(settings.who_at, settings.model):
                say(
                    f"{key}: the ledger has answers of '{settings.model}' at {settings.who_at} from before servers "
                    f"were asked which model they serve; they are not taken for those of {id}"
                )
            return settings.model_copy(update={"served": id})
        candidates = {id: id for id in known} | ({unmarked: ""} if unmarked else {})
        if len(candidates) > 1:
            raise UserError(
                f"{found.line} The ledger holds verdicts of {len(candidates)} models under this address and name "
                f"({', '.join(candidates)}): {key}.served=… says whose to take."
            )
        for name in candidates:
            say(f"{found.line} Going on with what is known of {name}.")
        if found.state == "loading" and not candidates:
            say(f"{found.line}; which model it serves will show later")
        return settings.model_copy(update={"served": "".join(candidates.values())})


def confirm(settings: OpenAISettings, ledger: Ledger, key: str = "feedback", fresh: float = FRESH) -> ServerCheck:
    """Look whether the server still serves what `settings.served` says.

    Raises:
        UserError: it serves another model.
    """
    found = look(settings, key, limit=LIMIT if fresh else min(10.0, settings.timeout), fresh=fresh)
    if found.state == "other":
        raise UserError(found.line)
    if found.state != "up":
        return found
    where, id = f"{key}.base_url={settings.base_url}", _effective(ledger, settings, found)
    identified = found.served if found.served is not None and found.served.id else None
    if id != (settings.served or "") and identified is not None:
        if not settings.served:
            raise UserError(f"{where}: the server names its model only now: {id}. Run the same command again.")
        raise UserError(
            f"{where}: another model answers there now: {id or identified.name}, where {settings.served} is meant. "
            "Start that one again; or run the same command again, to ask the new one."
        )
    if identified is None and is_identified(settings, ledger):
        meant = settings.served or ledger.recall(_adopted(settings))
        raise UserError(f"{where}: the server there now does not tell what it serves, where {meant} is meant.")
    return found


def is_identified(settings: OpenAISettings, ledger: Ledger) -> bool:
    """Whether the server has named the model that it serves before, and can be expected to name it again."""
    if settings.served:
        return bool(known_fingerprint(ledger, settings))
    return ledger.recall(_adopted(settings)) is not None


def known_fingerprint(ledger: Ledger, settings: OpenAISettings) -> dict[str, Any]:
    """The fingerprint of the model that is meant, as the server gave it when it was first asked."""
    return _seen(ledger, settings).get(settings.served or "", {}).get("marks", {})


def remember(ledger: Ledger, settings: OpenAISettings, served: Served | None) -> None:
    """Write down who is about to answer."""
    ledger.remember(_last(settings), settings.model)
    known = _seen(ledger, settings)
    if settings.served and settings.served not in known:
        about = {"name": served.name, "marks": dict(served.fingerprint)} if served else {}
        ledger.remember(_fact(settings), json.dumps(known | {settings.served: about | {"since": time.time()}}))
    adopt(ledger, settings, served)


def adopt(ledger: Ledger, settings: OpenAISettings, served: Served | None) -> None:
    """Give the answers without a fingerprint to the model that was found, for good, where `settings` take them."""
    if served and served.id and not settings.served and ledger.recall(_adopted(settings)) is None:
        ledger.remember(_adopted(settings), served.id)


def reached(ledger: Ledger, settings: OpenAISettings, now: bool = False) -> bool:
    """Whether the server has answered lately, to whichever process asked; `now`: it just has."""
    name = f"reached {settings.base_url}"
    if now:
        ledger.remember(name, repr(time.time()))
        return True
    return time.time() - float(ledger.recall(name) or 0.0) < RECENT


class ReplyNames:
    """Holds the names under which replies come against the name that was asked for, and against one another."""

    def __init__(self, settings: OpenAISettings, ledger: Ledger, served: Served | None = None) -> None:
        self._settings, self._ledger = settings, ledger
        self._names: tuple[str, ...] = ()
        self.know(served)
        self._fact = f"answers of {settings.who} at {settings.who_at}"
        self.name = ledger.recall(self._fact)  # under which the first reply came, in whichever run

    def know(self, served: Served | None) -> None:
        """The names that the server lists for the model that is meant are its own."""
        self._names = served.names if served else self._names

    def __call__(self, reply: Reply) -> None:
        """Take note of a reply.

        Raises:
            UserError: it is from another model.
        """
        name, settings = reply.model, self._settings
        if not name or name == self.name:
            return
        if name not in self._names and not allows(settings.model, settings.model_alias, name):
            raise UserError(
                f"feedback.model='{settings.model}': the server at {settings.base_url} answers as '{name}'. Give that "
                f"name if it is the one you mean, or allow it: feedback.model_alias='[{name}]'."
            )
        if self.name is None:
            self.name = name
            self._ledger.remember(self._fact, name)
        elif not (same(name, self.name) or same(self.name, name) or self._listed(name)):
            raise UserError(
                f"feedback.model='{settings.model}': the server at {settings.base_url} answers as '{name}' now, where "
                f"the verdicts so far are by '{self.name}'. To go on with that one, give its name as feedback.model; "
                f"to begin anew, give '{name}'."
            )

    def _listed(self, name: str) -> bool:
        """Whether both names are ones that the user has listed, and so takes for one."""
        alias = self._settings.model_alias
        names = (name, self.name or "")
        return isinstance(alias, tuple) and all(any(same(a, n) for a in alias) for n in names)


def _effective(ledger: Ledger | None, settings: OpenAISettings, found: ServerCheck) -> str:
    """The id of what was found, but "" for the model to which the answers without a fingerprint belong."""
    id = found.served.id if found.served else ""
    if not id or ledger is None:
        return id
    adopted = ledger.recall(_adopted(settings))
    if adopted is None and _paid(settings) and not _seen(ledger, settings):
        adopted = id if ledger.has_answers(settings.who_at, settings.model) else None
    return "" if adopted == id else id


def _paid(settings: OpenAISettings) -> bool:
    return settings.price.input > 0 or settings.price.output > 0


def _seen(ledger: Ledger, settings: OpenAISettings) -> dict[str, Any]:
    return json.loads(ledger.recall(_fact(settings)) or "{}")


def _fact(settings: OpenAISettings) -> str:
    return f"models behind {settings.model} at {settings.who_at}"


def _last(settings: OpenAISettings) -> str:
    return f"model that answered last at {settings.who_at}"


def _adopted(settings: OpenAISettings) -> str:
    return f"answers without a mark of {settings.model} at {settings.who_at}"


@contextmanager
def _reading(path: Path) -> Iterator[Ledger | None]:
    """The ledger, where there is one."""
    if not Path(path).is_file():
        yield None
        return
    with Ledger(path) as opened:
        yield opened
