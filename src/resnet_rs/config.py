"""The language of edits: nested frozen dataclasses as dotted assignments, and as JSON.

    edit(experiment, {"recipe.epochs": 100, "arch.se_ratio": None})     a new experiment
    diff(a, b)                                                          the edits between two
    edit(a, diff(a, b)) == b                                            always

A value may be text, as on a command line. The type of its field says how the text is read. pydantic checks types, the
dataclasses check ranges.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import reprlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from resnet_rs.text import MAX_WORD, closest, unique_keys

V = TypeVar("V")

TRUSTED_PACKAGES = [__name__.partition(".")[0]]
"""A stored file may name dataclasses of these packages. A program adds its own package for its own archs and tasks."""

_TYPE = "type"
_MAX_MESSAGE = 1000
"""Longest message about values, in letters. There may be a million values."""
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = MAX_WORD
_shortened.maxlist = _shortened.maxdict = 8
_shortened.maxlong = 50


def edit(value: V, edits: Mapping[str, Any]) -> V:
    """`value` with new values in the fields that `edits` names, such as `recipe.epochs`, all set at once.

    A dataclass may be set first and then its fields. Raises `ValueError` for an unknown field, a value of the wrong
    type or out of range, and edits that contradict each other.
    """
    return _edit(value, edits, parent="")


def diff(old: Any, new: Any) -> dict[str, Any]:
    """The edits that turn `old` into `new`. Nested dataclasses of the same type are compared field by field."""
    if type(old) is not type(new):
        raise TypeError(f"cannot compare a {type(old).__name__} with a {type(new).__name__} field by field.")
    edits: dict[str, Any] = {}
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            edits.update({f"{field.name}.{path}": value for path, value in diff(before, after).items()})
        elif before != after:
            edits[field.name] = after
    return edits


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["recipe.epochs=100", ...]` as edits with text values. Setting a field twice is refused."""
    edits: dict[str, str] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not path:
            raise ValueError(
                f"an edit is written field=value, got {_shown(assignment)}. Example: recipe.epochs=100."
            )
        if path in edits:
            raise ValueError(
                f"{_shown(path)} is set twice, to {_shown(edits[path])} and to {_shown(text)}. Keep one of them."
            )
        edits[path] = text
    return edits


def to_plain(value: Any) -> Any:
    """`value` as JSON. A dataclass becomes an object with its module path under `type`, a tuple becomes a list."""
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        cls = type(value)
        return {_TYPE: f"{cls.__module__}.{cls.__qualname__}"} | {
            n: to_plain(getattr(value, n)) for n in names
        }
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(plain: Any, *, kinds: tuple[type, ...] = (object,)) -> Any:
    """The dataclass that `to_plain` wrote, an instance of one of `kinds`.

    Only frozen dataclasses of `TRUSTED_PACKAGES` are built, so a file cannot run other code. A value of another kind is
    refused before its fields are read.
    """
    if not isinstance(plain, Mapping) or not isinstance(plain.get(_TYPE), str):
        raise ValueError(f"a stored value is an object with a {_TYPE!r}, got {_shown(plain)}.")
    cls = _stored_type(plain[_TYPE])
    if not issubclass(cls, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"expected a stored {names}, got a {cls.__name__}.")
    values = {name: value for name, value in plain.items() if name != _TYPE}
    hints = _hints(cls)
    _refuse_unknown(cls, values)
    return _build(cls, {name: _read(value, hints[name], name) for name, value in values.items()})


def describe(edits: Mapping[str, Any]) -> str:
    """Edits as on the command line: `recipe.epochs=100 arch.se_ratio=none`."""
    return " ".join(f"{path}={as_text(value)}" for path, value in edits.items())


def as_text(value: Any) -> str:
    """A value as text for the command line."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(to_plain(value))


def _edit(value: Any, edits: Mapping[str, Any], *, parent: str) -> Any:
    """Apply `edits`, whose paths are relative to `value`. `parent` is the path of `value` with a point after it."""
    _refuse_unknown(value, edits, parent=parent)
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    by_field: dict[str, dict[str, Any]] = {}
    for path, new in edits.items():
        name, point, rest = path.partition(".")
        by_field.setdefault(name, {})[point + rest] = new
    for name, new in by_field.items():
        fields[name] = _edited(fields[name], _hints(type(value))[name], new, path=parent + name)
    return _build(type(value), fields, among=[parent + path for path in edits])


def _edited(inner: Any, hint: Any, edits: Mapping[str, Any], *, path: str) -> Any:
    """The value of the field at `path`. The keys of `edits` are "" for the whole value, and `.name` for its fields."""
    below = {key[1:]: new for key, new in edits.items() if key}
    if "" in list(edits)[1:]:
        raise ValueError(f"{_shown(path)} is set after its fields, which undoes them. Set it before them.")
    if "" in edits:
        inner = _read(edits[""], hint, path, present=type(inner), is_edit=True)
    if not below:
        return inner
    if dataclasses.is_dataclass(inner):
        return _edit(inner, below, parent=f"{path}.")
    first, kinds = _shown(f"{path}.{next(iter(below))}"), _dataclasses(hint)
    cure = f" Set it first, as in {path}={kinds[0].__name__}." if kinds else ""
    cure = " Leave one of the two edits out." if "" in edits else cure
    raise ValueError(f"cannot edit {first}: {path!r} is {as_text(inner)}, which has no fields.{cure}")


def _build(cls: type, fields: Mapping[str, Any], *, among: list[str] | None = None) -> Any:
    """`cls(**fields)`. An error about a value names the edits `among` which its cause is."""
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"cannot build {cls.__name__}: {error}.") from None
    except ValueError as error:
        names = "" if among is None else f"cannot edit {', '.join(_shown(path) for path in among)}: "
        message = str(error)
        end = " ..." if len(message) > _MAX_MESSAGE else ""
        raise ValueError(f"{names}{message[:_MAX_MESSAGE]}{end}") from None


def _read(value: Any, hint: Any, path: str, *, present: type | None = None, is_edit: bool = False) -> Any:
    """`value` as an instance of its field's type `hint`. It may be an instance, JSON, or, in an edit, text.

    JSON without a type gets the type of the `present` value, else the first possible one.
    """
    is_text = is_edit and isinstance(value, str)
    if is_text and value.lower() in ("none", "null") and type(None) in _members(hint):
        return None
    kinds = _dataclasses(hint)
    if kinds:
        value = _read_text(value, kinds, path) if is_text else value
        if isinstance(value, Mapping) and _TYPE not in value:
            cls = present if present is not None and issubclass(present, tuple(kinds)) else kinds[0]
            value = {_TYPE: f"{cls.__module__}.{cls.__qualname__}", **value}
        if isinstance(value, tuple(kinds)) or (value is None and type(None) in _members(hint)):
            return value
        try:
            return from_plain(value, kinds=tuple(kinds))
        except ValueError as error:
            raise ValueError(f"in {path!r}: {error}") from None
    for text in _as_json(value, is_text=is_text):
        # `PydanticUserError`: a type that JSON cannot represent, in a file that was changed by hand.
        with suppress(ValidationError, PydanticUserError):
            return _adapter(hint).validate_json(text, strict=True)
    near = _closest(str(value), (str(c) for m in _members(hint) for c in _choices(m)))
    raise ValueError(f"cannot set {_shown(path)} to {_shown(value)}: {_allowed(hint)}.{near}")


def _as_json(value: Any, *, is_text: bool) -> list[str]:
    """JSON texts to try in this order. Text of an edit may be a number, a list or a word."""
    if not is_text:
        try:
            return [json.dumps(to_plain(value))]
        except (TypeError, ValueError, RecursionError):
            return []  # not representable as JSON
    try:
        number = [repr(float(value))]
    except ValueError:
        number = []
    return [value, f"[{value}]", json.dumps(value), value.lower(), *number]


def _read_text(text: str, kinds: list[Any], path: str) -> Any:
    """A dataclass from the name of its type, then with its defaults, or from JSON."""
    known = {cls.__name__: cls for kind in kinds for cls in _concrete(kind)}
    if text in known:
        return _build(known[text], {})
    if not text.startswith("{"):
        choices = " or ".join([*known, 'JSON, such as {"type": ...}'])
        near = _closest(text, known, likeness=0.3)
        raise ValueError(f"cannot set {path!r} to {_shown(text)}: it must be {choices}.{near}")
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"cannot set {path!r} to {_shown(text)}: this is not valid JSON ({error})."
        ) from None


def _refuse_unknown(owner: Any, paths: Iterable[str], *, parent: str | None = None) -> None:
    """Refuse paths that do not begin with a field of `owner`, a value or a type.

    `parent` is the path of a value in an edit with a point after it, such as `recipe.`, and none in a stored file.
    """
    cls = owner if isinstance(owner, type) else type(owner)
    known = [field.name for field in dataclasses.fields(cls)]
    for path in paths:
        name = path.partition(".")[0]
        if name not in known:
            message = f"{cls.__name__} has no field {_shown(name)}."
            if parent is not None:
                aliases = _aliases(owner)
                word = path.rpartition(".")[2]
                near = word if word in aliases else closest(path, aliases, at_most=1, likeness=0.6)
                message = f"cannot edit {_shown(parent + path)}: {message}"
                message += f" Closest: {parent}{aliases[near]}." if near else ""
            raise ValueError(f"{message} Its fields are: {', '.join(known)}.")


def _stored_type(path: str) -> type:
    """The frozen dataclass at a stored module path of a trusted package."""
    module, _, name = path.rpartition(".")
    parts = path.split(".")
    is_path = len(path) <= 4 * MAX_WORD and all(p.isidentifier() and not p.startswith("_") for p in parts)
    if is_path and module.partition(".")[0] in TRUSTED_PACKAGES:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
        is_frozen = getattr(getattr(found, "__dataclass_params__", None), "frozen", False)
        if isinstance(found, type) and is_frozen and found.__module__ == module:
            return found
    raise ValueError(
        f"{_shown(path)} is not a dataclass of {', '.join(TRUSTED_PACKAGES)}. The file may come from a newer version."
    )


def _concrete(kind: type) -> list[type]:
    """`kind` and its subclasses that can be built without arguments."""
    found = [kind, *(cls for sub in kind.__subclasses__() for cls in _concrete(sub))]
    return [
        cls
        for cls in dict.fromkeys(found)
        if not getattr(cls, "__abstractmethods__", None)
        and all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls))
    ]


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union. Another type is its own only member."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _dataclasses(hint: Any) -> list[Any]:
    return [member for member in _members(hint) if dataclasses.is_dataclass(member)]


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`. Other types have none."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _allowed(hint: Any) -> str:
    """A sentence part that says which values a field of this type takes."""
    words: list[str] = []
    for member in _members(hint):
        if _choices(member):
            words += [str(choice) for choice in _choices(member)]
        elif typing.get_origin(member) is tuple:
            items = typing.get_args(member)
            many = "several" if Ellipsis in items else str(len(items))
            words.append(f"a list of {many} values, such as [{', '.join('1' for _ in items)}]")
        else:
            words.append(
                {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}.get(
                    member
                )
                or f"a {getattr(member, '__name__', member)}"
            )
    return f"it must be {' or '.join(words)}"


def _closest(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """A sentence with the word of `known` that is closest to a misspelled one, if any is close."""
    found = closest(word, known, at_most=1, likeness=likeness)
    return f" Closest: {found}." if found else ""


def _aliases(value: Any) -> dict[str, str]:
    """The paths of all fields of a dataclass, by path, by name and by each word of the name: `lr` is `base_lr`."""
    found: dict[str, str] = {}
    for path in _paths(value):
        name = path.rpartition(".")[2]
        for alias in (path, name, *name.split("_")):
            found.setdefault(alias, path)
    return found


def _paths(value: Any) -> Iterator[str]:
    """The paths of all fields of a dataclass, also of those inside its fields."""
    for field in dataclasses.fields(value):
        yield field.name
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from (f"{field.name}.{path}" for path in _paths(inner))


def _shown(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    return _shortened.repr(value) if not dataclasses.is_dataclass(value) else type(value).__name__


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@cache
def _adapter(hint: Any) -> Any:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
