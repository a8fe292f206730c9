"""The border where chat templates are rendered: programs from outside, which get neither time nor memory without end.

The language is that of transformers' `apply_chat_template`. What a rendering may take is counted as it goes: rounds of
loops and calls, characters that are written, time; an operation that would make a value too large is not begun. No
dialogue needs a thousandth of it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError, TemplateRuntimeError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from morlaif.data.records import Message

STEPS = 1_000_000  # rounds of loops, and calls
WRITTEN = 200_000_000  # characters, those that are kept in variables among them
SIZE = 10_000_000  # characters or items of one value
SECONDS = 10.0  # of the processor
_WIDE = re.compile(r"\d{7,}|%[^a-zA-Z%]*\*")  # a width in a format that is too large, or comes from elsewhere

# What is shown to a template to see that it shows it: in each turn a word that no template writes itself.
PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "quokka71 asks"},
    {"role": "assistant", "content": "wombat82 answers"},
    {"role": "user", "content": "numbat93 asks on"},
)
SYSTEM: Message = {"role": "system", "content": "bilby64 rules"}
NO_TOKENS: dict[str, Any] = {"bos_token": "", "eos_token": "", "unk_token": "", "pad_token": ""}


class TooMuch(TemplateRuntimeError):
    """The template takes more than any dialogue needs."""


class _Spent:
    """What one rendering has taken."""

    def __init__(self) -> None:
        self.steps = self.written = 0
        self.end = time.thread_time() + SECONDS

    def take(self, steps: int = 0, written: int = 0) -> None:
        self.steps += steps
        self.written += written
        if self.steps > STEPS:
            raise TooMuch(f"it takes more than {STEPS:,} rounds of its loops and calls")
        if self.written > WRITTEN:
            raise TooMuch(f"it writes more than {WRITTEN:,} characters")
        if time.thread_time() > self.end:
            raise TooMuch(f"it takes more than {SECONDS:g} s")


_spent: ContextVar[_Spent] = ContextVar("spent")


def _fits(size: float) -> None:
    if size > SIZE:
        raise TooMuch(f"it makes a value of more than {SIZE:,} characters")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | range) else 0


def _numbers(values: Iterable[Any]) -> None:
    for value in values:
        _fits(abs(value) if isinstance(value, int) else 0)


def _grows(name: str, text: Any, args: Sequence[Any]) -> None:
    """Raises `TooMuch` where the method or filter `name` of `text` would make a value too large."""
    _numbers(args)
    if name in ("format", "format_map") and isinstance(text, str):
        if _WIDE.search(text):
            raise TooMuch("it asks for a width of a million or more, or for one that varies")
        _fits(len(text) * (1 + sum(map(_length, args))) / 100)
    elif name == "replace" and isinstance(text, str) and len(args) > 1:
        old, new = str(args[0]), str(args[1])
        _fits(len(text) + text.count(old) * len(new))
    elif name == "join" and args and isinstance(text, str):
        parts = args[0] if isinstance(args[0], list | tuple | dict | str) else ()
        _fits(sum(map(_length, parts)) + len(parts) * len(text))
    elif name == "indent" and args and isinstance(text, str):
        _fits(len(text) + text.count("\n") * (args[0] if isinstance(args[0], int) else _length(args[0])))


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' language, without folding of constants, each step counted."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})
    constants = 0  # characters of the template that are text

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_finalize,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )  # fmt: skip
        self.filters = {name: _guarded(name, made) for name, made in self.filters.items()}
        self.filters |= {"tojson": _guarded("tojson", _tojson), "_rounds": _rounds, "_concat": _concat}
        self.globals |= {
            "raise_exception": _refuse, "dict": dict, "namespace": _Namespace,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }  # fmt: skip
        self.globals.pop("lipsum", None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        self.constants = _constants(tree)
        return _Counted().visit(tree)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr != "translate" and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            many = (_length(a) * abs(b) for a, b in ((left, right), (right, left)) if isinstance(b, int))
            _fits(max(many, default=0))
            _numbers(() if _length(left) or _length(right) else (left, right))
        elif operator == "**":
            _numbers((left, right))
            _fits(abs(right) * 20 if isinstance(left, int) and isinstance(right, int) else 0)
        elif operator == "+":
            _fits(_length(left) + _length(right))
        elif isinstance(left, str):
            _grows("format", left, right if isinstance(right, tuple) else (right,))
        found = super().call_binop(context, operator, left, right)
        _spent.get().take(1, _length(found))
        return found

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        steps = 1 + sum(_length(value) for value in given if not isinstance(value, str | dict))
        _spent.get().take(steps, __self.constants if isinstance(__obj, Macro) else 0)
        of = getattr(__obj, "__wrapped__", __obj)  # of `format`
        if isinstance(getattr(of, "__self__", None), str):
            _grows(of.__name__, of.__self__, given)
            _spent.get().take(written=len(of.__self__))
        found = super().call(__context, __obj, *args, **kwargs)
        _spent.get().take(written=_length(found))
        return found


class _Generation(Extension):
    """transformers' tag around what the assistant says; here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012, as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateRuntimeError(f"it sets {name!r} of a namespace")
        super().__setitem__(name, value)


class _Counted(NodeTransformer):
    """Sees to it that loops count their rounds, and that texts joined by ~ have an end."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _filter(node.iter, "_rounds", nodes.Const(_constants(node)))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat")


def _filter(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    for arg in args:
        arg.set_lineno(node.lineno)
    made = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
    if node.environment is not None:
        made.set_environment(node.environment)
    return made


def _constants(node: nodes.Node) -> int:
    return sum(len(text.data) for text in node.find_all(nodes.TemplateData))


def _rounds(items: Iterable[Any], constants: int) -> Iterable[Any]:
    """`items`, each of which counts as a round that may write `constants` characters."""
    spent = _spent.get()
    if isinstance(items, Sized):
        spent.take(len(items), len(items) * constants)
        return items
    return _counted(items, spent, constants)


def _counted(items: Iterable[Any], spent: _Spent, constants: int) -> Iterator[Any]:
    for item in items:
        spent.take(1, constants)
        yield item


def _concat(parts: Sequence[Any]) -> str:
    texts = [str(part) for part in parts]
    _fits(size := sum(map(len, texts)))
    _spent.get().take(1, size)
    return "".join(texts)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    text = str(value)
    _spent.get().take(1, len(text))
    return text


def _guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if getattr(made, "jinja_pass_arg", None) is not None else 0

    @wraps(made)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        value, *more = args[passed:] or (None,)
        more += kwargs.values()
        _spent.get().take(1)
        if name == "join":
            value = list(value) if not isinstance(value, str | dict) else value
            args = (*args[:passed], value, *args[passed + 1 :])
            _grows(name, str(more[0]) if more else "", [value])
        elif name not in ("default", "d"):
            _grows(name, value, more)
        found = made(*args, **kwargs)
        _fits(_length(found))
        _spent.get().take(written=_length(value) + _length(found))
        return found

    return guarded


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> NoReturn:
    raise TemplateError(str(message))


@lru_cache(maxsize=64)
def _compiled(text: str) -> Any:
    return _Environment().from_string(text)


def render(
    text: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
) -> str:
    """The dialogue as the template `text` writes it; `variables` are the special tokens.

    Raises:
        TemplateError: the template is none, or refuses the dialogue, whatever it stumbles over; `TooMuch`: it takes
            more than it may.
    """
    if not messages:
        raise TemplateError("there is no turn")
    token = _spent.set(_Spent())
    try:
        turns = [{key: value for key, value in turn.items() if value is not None} for turn in messages]
        return _compiled(text).render(
            **{"tools": None, "documents": None, **variables},
            messages=turns, add_generation_prompt=add_generation_prompt,
        )  # fmt: skip
    except TemplateError:
        raise
    except MemoryError:
        raise TooMuch("it takes more memory than there is") from None
    except OverflowError as error:
        ranges = f"it counts a range of more than {MAX_RANGE:,}"
        raise TooMuch(ranges if "MAX_RANGE" in str(error) else str(error)) from None
    except Exception as error:
        raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from None
    finally:
        _spent.reset(token)


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
) -> str:
    """What the tokenizer's `apply_chat_template` gives, within the bounds. Raises as `render`."""
    from transformers import PreTrainedTokenizerBase

    if type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:  # no Jinja
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise TemplateError("there is no template of the name 'default'")
    return render(template, messages, add_generation_prompt=add_generation_prompt, **tokenizer.special_tokens_map)


def template_fault(text: str, **variables: Any) -> str | None:
    """Why a chat template is none: it does not compile, takes too much, or leaves out a turn; None: it is one.

    A template may refuse the dialogue that it is tried with, and leave out a system turn, which the user then says.
    """
    from jinja2 import TemplateSyntaxError

    try:
        _compiled(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (TemplateError, RecursionError, ValueError, MemoryError, OverflowError) as error:
        return str(error) or type(error).__name__
    wrong = []
    probes: tuple[Sequence[Message], ...] = (PROBE, PROBE[:1], (SYSTEM, *PROBE[:1]))
    for turns in probes:
        try:
            if (lost := _lost(render(text, turns, **(NO_TOKENS | variables)), turns)) is not None:
                return lost
        except TooMuch as error:
            return str(error)
        except TemplateError as error:
            wrong.append(" ".join(str(error).split())[:120])
    return f"it refuses even a dialogue of one turn, the user's ({wrong[1]})" if len(wrong) == 3 else None


def _lost(text: str, turns: Sequence[Message]) -> str | None:
    """Which turn `text` does not show, or not in its place."""
    place, text = 0, text.lower()
    for number, turn in enumerate(turns, 1):
        word = turn["content"].split()[0]
        found = text.find(word, place)
        if found < 0 and turn["role"] != "system":
            what = "not in its place" if word in text else "not at all"
            return (
                f"of a dialogue of {len(turns)} turns it shows turn {number} ({turn['role']}) {what}; expected a "
                "template that writes each turn's content, in order"
            )
        place = max(place, found)
    return None
