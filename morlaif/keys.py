"""What is wrong with a config, key by key: pydantic's errors and unknown keys, each as one line with the near name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from morlaif.errors import suggest
from morlaif.settings import OneOf

LONGEST = 100  # characters of a value that a line repeats
ALL_KEYS = " `morlaif --cfg job` prints every key."


class KeyType(NamedTuple):
    """A type, and how its members are distinguished where it is a union of settings."""

    annotation: Any
    by: str | OneOf | None = None

    @property
    def discriminator(self) -> str | None:
        """The key that tells members apart."""
        return self.by.field if isinstance(self.by, OneOf) else self.by

    @property
    def members(self) -> dict[str, type[BaseModel]]:
        """By tag, of a union with a discriminator."""
        if self.by is None or get_origin(self.annotation) not in (Union, UnionType):
            return {}
        if isinstance(self.by, OneOf):
            return self.by.members(self.annotation)
        return {
            str(tag): model
            for model in get_args(self.annotation)
            for tag in get_args(model.model_fields[self.by].annotation)
        }

    def member(self, tree: Any) -> Any:
        """The member that `tree` chooses; NoneType where it chooses none."""
        members = self.members
        text = tree.get(self.discriminator) if isinstance(tree, Mapping) else None
        tag = self.by.tag(text, members) if isinstance(self.by, OneOf) else text
        return members.get(str(tag), NoneType)

    @property
    def names(self) -> list[str]:
        """What may be given at the discriminator, but for dotted paths."""
        if not isinstance(self.by, OneOf):
            return list(self.members)
        ours = [tag for tag in self.members if tag != OneOf.OTHERS]
        return [*ours, *filter(self.by.registry.is_others, self.by.registry.names())]

    @property
    def optional(self) -> bool:
        return self.annotation is NoneType or NoneType in get_args(self.annotation)


def bare(annotation: Any, by: str | OneOf | None = None) -> KeyType:
    """A type without its metadata and without None."""
    while True:
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            annotation = inner[0]
            by = _first_by(inner[1:]) or by
        elif origin in (Union, UnionType) and len(rest := [part for part in inner if part is not NoneType]) == 1:
            annotation = rest[0]
        else:
            return KeyType(annotation, by)


def _first_by(metadata: Iterable[Any]) -> str | OneOf | None:
    """By what the members of a union are distinguished, from its metadata."""
    for one in metadata:
        if isinstance(one, OneOf):
            return one
        if isinstance(one, FieldInfo) and isinstance(one.discriminator, str):
            return one.discriminator
    return None


def _field(model: type[BaseModel], name: str) -> KeyType | None:
    field = model.model_fields.get(name)
    return None if field is None else bare(field.annotation, _first_by([*field.metadata, field]))


def _is_settings(kind: KeyType | None) -> bool:
    return kind is not None and (
        bool(kind.members) or (isinstance(kind.annotation, type) and issubclass(kind.annotation, BaseModel))
    )


def keys_of(place: Iterable[int | str], root: type[BaseModel]) -> list[int | str]:
    """The keys of pydantic's location, which also names the members of unions."""
    keys: list[int | str] = []
    kind, rest = KeyType(root), list(place)
    while rest:
        origin, inner = get_origin(kind.annotation), get_args(kind.annotation)
        if kind.members:
            kind = KeyType(kind.members[str(rest.pop(0))])
        elif _is_settings(kind):
            name = rest.pop(0)
            keys.append(name)
            kind = _field(kind.annotation, str(name)) or KeyType(Any)
        elif origin in (dict, list, tuple):
            keys.append(rest.pop(0))
            kind = bare(inner[-1] if origin is dict or inner[-1] is not Ellipsis else inner[0])
        elif origin in (Union, UnionType):
            rest.pop(0)
            kind = next((k for k in map(bare, inner) if get_origin(k.annotation) in (dict, list, tuple)), KeyType(Any))
        else:
            break
    return keys


def dotted_name(keys: Iterable[int | str]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def kind_at(keys: Iterable[int | str], tree: Any, root: type[BaseModel]) -> KeyType:
    """The type of what is at `keys`; where members of a union differ, of the member that the tree chooses."""
    kind = KeyType(root)
    for key in keys:
        if kind.members:
            kind = KeyType(kind.member(tree))
        inner = get_args(kind.annotation)
        if get_origin(kind.annotation) in (dict, list, tuple):
            kind = bare(inner[-1] if inner[-1] is not Ellipsis else inner[0])
        else:
            kind = (_field(kind.annotation, str(key)) if _is_settings(kind) else None) or KeyType(Any)
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return kind


# --- errors of validation ------------------------------------------------------------------------------------------


def explain_values(error: ValidationError, tree: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """One line for each wrong key of `tree`."""
    lines: dict[str, list[str]] = {}
    misfits: dict[str, list[tuple[str, str, str]]] = {}  # by group: keys that its kind has not, or lacks
    for item in error.errors():
        keys = keys_of(item["loc"], root)
        dotted = dotted_name(keys)
        if _has_no_option(keys, tree, root):
            lines[str(keys[0])] = [_no_group(str(keys[0]))]
        elif item["type"] in ("extra_forbidden", "missing") and kind_at(keys[:-1], tree, root).members:
            line = _unfit(item, keys, tree, root)
            misfits.setdefault(dotted_name(keys[:-1]), []).append((item["type"], str(keys[-1]), line))
        else:
            lines.setdefault(dotted, []).append(_line(item, keys, tree, root))
    for group, found in misfits.items():
        lines[f"{group}."] = _misfits(group, found, tree, root)
    return list(dict.fromkeys(line for key in lines for line in _joined(lines[key])))


def _joined(lines: list[str]) -> list[str]:
    """What each member of a union has to say of one value, as one line."""
    head = lines[0].split(": ", 1)[0]
    if len(lines) == 1 or any(not line.startswith(f"{head}: should ") for line in lines):
        return lines
    wanted = [line.removeprefix(f"{head}: should ").removesuffix(".") for line in lines]
    return [f"{head}: should {' or '.join(dict.fromkeys(wanted))}."]


def _line(item: Mapping[str, Any], keys: list[int | str], tree: Mapping[str, Any], root: type[BaseModel]) -> str:
    dotted, kind = dotted_name(keys), item["type"]
    if kind in ("extra_forbidden", "missing"):
        return _unfit(item, keys, tree, root)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        union = kind_at(keys, tree, root)
        given = f"={shown(item['ctx']['tag'])}" if "tag" in item["ctx"] else ""
        near = suggest(str(item["ctx"].get("tag", "")), union.names)
        more = f" {dotted}=<option> sets it with all that belongs to it." if len(keys) == 1 else ""
        yours = " One of your own is given by its dotted path." if isinstance(union.by, OneOf) else ""
        return f"{dotted}.{union.discriminator}{given}: should be {_either(union.names)}.{near}{yours}{more}"
    message = item["msg"].removeprefix("Value error, ")
    message = re.sub(r"^(Input|String|List|Tuple|Dictionary|Value) should", "should", message)
    message = re.sub(r"^should be a valid dictionary( or instance of \w+)?$", "should be a mapping of keys", message)
    message = message.replace("should be a valid string", "should be a text")
    message = re.sub(r"should be a valid (tuple|list)", "should be a list", message)
    message = re.sub(r" after validation, not (\d+)$", r", not \1", message)
    whole = kind == "value_error" and isinstance(item["input"], Mapping)
    return f"{dotted}{'' if whole else '=' + shown(item['input'])}: {message.removesuffix('.')}."


def _unfit(item: Mapping[str, Any], keys: list[int | str], tree: Mapping[str, Any], root: type[BaseModel]) -> str:
    """A key that has no place here, or one that is missing."""
    dotted = dotted_name(keys)
    if item["type"] == "extra_forbidden":
        return unknown_key([str(key) for key in keys], tree, root)
    if isinstance(keys[-1], int):
        given = item["input"]
        wanted = len(get_args(kind_at(keys[:-1], tree, root).annotation))
        return f"{dotted_name(keys[:-1])}={shown(given)}: should have {wanted} entries, not {len(given)}."
    kind = kind_at(keys, tree, root)
    if len(keys) == 1 and _is_settings(kind):
        return _no_group(dotted)
    empty = " (null where it is meant to be empty)" if _may_be_null(keys, tree, root) else ""
    return f"{dotted}: missing; this key must be given{empty}."


def _has_no_option(keys: list[int | str], tree: Mapping[str, Any], root: type[BaseModel]) -> bool:
    """Whether a group has only the seed that `config.yaml` gives to all: its option was taken out."""
    group = tree.get(str(keys[0])) if keys else None
    return isinstance(group, Mapping) and set(group) == {"seed"} and _is_settings(kind_at(keys[:1], tree, root))


def _no_group(name: str) -> str:
    return f"{name}: missing; a run needs this group: {name}=<option>."


def _may_be_null(keys: list[int | str], tree: Mapping[str, Any], root: type[BaseModel]) -> bool:
    above = kind_at(keys[:-1], tree, root)
    if above.members:
        above = KeyType(above.member(_value_at(keys[:-1], tree)))
    field = getattr(above.annotation, "model_fields", {}).get(keys[-1])
    return field is not None and NoneType in get_args(field.annotation)


def _misfits(
    group: str, found: list[tuple[str, str, str]], tree: Mapping[str, Any], root: type[BaseModel]
) -> list[str]:
    """The keys of one group that do not go with its kind: in one line where they belong to another kind."""
    kind = kind_at(group.split("."), tree, root)
    tag = _value_at(group.split("."), tree)[kind.discriminator]
    foreign = {name for model in kind.members.values() for name in model.model_fields}
    extra = [name for type_, name, _ in found if type_ == "extra_forbidden" and name in foreign]
    lacking = [name for type_, name, _ in found if type_ == "missing"]
    if len(extra) + len(lacking) < 2:
        return [line for *_, line in found]
    faults = [f"has no {_either(extra, 'or')}"] * bool(extra) + [f"lacks {_either(lacking, 'and')}"] * bool(lacking)
    others = [line for type_, name, line in found if type_ == "extra_forbidden" and name not in foreign]
    out = f", or take out what a preset sets: {' '.join(f'~{group}.{name}' for name in extra)}" if extra else ""
    return [f"{group}.{kind.discriminator}={tag}: {' and '.join(faults)}. Give {group}=<option>, which sets all that "
            f"belongs together{out}.", *others]  # fmt: skip


def shown(value: Any) -> str:
    """A value as it may be repeated in a line: short, and without the name and password of an address."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a number of {value.bit_length()} bits"
    text = re.sub(r"//[^/@\s]*@", "//***@", text)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _either(names: list[str], word: str = "or") -> str:
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _value_at(keys: Iterable[int | str], tree: Any) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


# --- unknown keys --------------------------------------------------------------------------------------------------


def unknown_key(parts: list[str], tree: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line for a key that the config has no place for, with the nearest one that it has."""
    dotted = ".".join(parts)
    above: list[str] = []
    node: Any = tree
    for part in parts:
        if not isinstance(node, Mapping) or part not in node:
            break
        if (len(above), part) == (len(parts) - 1, parts[-1]):  # put there by the override itself
            break
        above.append(part)
        node = node[part]
    if not isinstance(node, Mapping):
        return f"unknown key '{dotted}': '{'.'.join(above)}' is {_what(node)}, which has no keys."
    name, rest = parts[len(above)], parts[len(above) + 1 :]
    here, kind = ".".join(above), kind_at(above, tree, root)
    known = known_keys(tree, without=dotted)
    if near := _near(name, [key for key in node if key != name]):
        whole = ".".join([*above, near, *rest])
        return f"unknown key '{dotted}'. Did you mean '{whole if whole in known else '.'.join([*above, near])}'?"
    if get_origin(kind.annotation) is dict:
        return f"unknown key '{dotted}': '+{dotted}=…' adds it to {here}."
    owners = [tag for tag, model in kind.members.items() if name in model.model_fields and tag != OneOf.OTHERS]
    if owners:
        tag, switch = node.get(kind.discriminator or ""), f"{here}.{kind.discriminator}"
        out = f" If a preset sets it, '~{dotted}' takes it out." if name in node else ""
        return f"unknown key '{dotted}': {here} '{tag}' has no '{name}'; {switch} {_either(owners)} has it.{out}"
    namesakes = [key for key in known if key.rpartition(".")[2] == parts[-1]]
    if namesakes:
        return f"unknown key '{dotted}'.{suggest(dotted, namesakes, cutoff=0)}"
    by_name = {key.rpartition(".")[2]: key for key in reversed(known)}
    if near := _near(parts[-1], list(by_name), 0.8):
        return f"unknown key '{dotted}'. Did you mean '{by_name[near]}'?"
    return f"unknown key '{dotted}'.{ALL_KEYS}"


def _near(wrong: str, right: list[str], cutoff: float = 0.6) -> str | None:
    return next(iter(get_close_matches(wrong, right, n=1, cutoff=cutoff)), None)


def _what(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list, given whole as [a, b]"
    return "a text" if isinstance(value, str) else shown(value)


def known_keys(tree: Mapping[str, Any], prefix: str = "", without: str = "") -> list[str]:
    """Every dotted key of a tree."""
    keys: list[str] = []
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        if dotted != without:
            keys.append(dotted)
            if isinstance(value, Mapping):
                keys += known_keys(value, dotted + ".", without)
    return keys
