"""Dataclasses, and named tuples within them, as compact JSON lists, by their field order, and back.

Field order is therefore part of the stored layout: new fields go to the end and need defaults.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

Convert = Callable[[Any], Any]


encoded = msgspec.json.Encoder().encode
"""Compact JSON as UTF-8."""

loads = msgspec.json.Decoder().decode


def dumps(value: Any) -> str:
    """Compact JSON text."""
    return encoded(value).decode()


@lru_cache(maxsize=256)
def packer(kind: Any, skip: frozenset[str] = frozenset()) -> Convert:
    """A function from an instance of the dataclass to JSON-ready lists, without the fields in `skip`."""
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind) if f.name not in skip]
    nested = [(i, step) for i, name in enumerate(names) if (step := _pack_of(hints[name])) is not None]
    get: Convert = attrgetter(*names)
    # Of a single name, attrgetter gives the value itself.
    row_of = get if len(names) > 1 else lambda value: (get(value),)

    def pack(value: Any) -> list[Any]:
        row = list(row_of(value))
        for i, step in nested:
            if row[i] is not None:
                row[i] = step(row[i])
        return row

    return pack


@lru_cache(maxsize=256)
def unpacker(kind: Any, skip: frozenset[str] = frozenset()) -> Callable[..., Any]:
    """The inverse of `packer(kind, skip)`; missing trailing fields take their defaults, skipped ones are keywords."""
    hints = get_type_hints(kind)
    steps = [(f.name, _unpack_of(hints[f.name])) for f in fields(kind) if f.name not in skip]

    def unpack(values: list[Any], **skipped: Any) -> Any:
        for value, (name, step) in zip(values, steps, strict=False):
            skipped[name] = value if step is None else step(value)
        return kind(**skipped)

    return unpack


def union_codec(*kinds: Any) -> tuple[Convert, Convert]:
    """Pack and unpack values of one of several dataclasses, led by the class's name."""
    by_name = {kind.__name__: unpacker(kind) for kind in kinds}
    by_kind = {kind: (kind.__name__, packer(kind)) for kind in kinds}

    def pack(value: Any) -> list[Any]:
        name, packed = by_kind[type(value)]
        return [name, *packed(value)]

    def unpack(values: list[Any]) -> Any:
        return by_name[values[0]](values[1:])

    return pack, unpack


def _plain(hint: Any) -> Any:
    """The hint without `| None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _optional(hint: Any, convert: Convert | None) -> Convert | None:
    if convert is None or _plain(hint) is hint:
        return convert
    return lambda value: None if value is None else convert(value)


def _pack_of(hint: Any) -> Convert | None:
    """How a value that is not None is packed; None: as it is."""
    kind = _plain(hint)
    if is_dataclass(kind):
        return packer(kind)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        item = _pack_of(get_args(kind)[0])
        return None if item is None else (lambda values: [item(value) for value in values])
    return None


def _unpack_of(hint: Any) -> Convert | None:
    kind = _plain(hint)
    if is_dataclass(kind):
        return _optional(hint, unpacker(kind))  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            item = _unpack_of(args[0])
            return tuple if item is None else (lambda values: tuple(item(value) for value in values))
        items = [_unpack_of(arg) for arg in args]
        return lambda values: tuple(
            value if item is None else item(value) for value, item in zip(values, items, strict=True)
        )
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _optional(hint, kind)
    if isinstance(kind, type) and issubclass(kind, tuple):  # a NamedTuple of plain values, a JSON list by itself
        return _optional(hint, lambda values: kind(*values))
    return None
