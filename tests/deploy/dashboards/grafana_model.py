"""Grafana's dashboard model, as the classes that its makers generate from its schema, held against JSON values.

`grafana-foundation-sdk` has a class for each part, with typed attributes and a `to_json`. Its own `from_json` drops
what it does not know and checks no types; so the classes are only read here: which fields there are, which must be
there, and of what type each is.
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import dashboard, prometheus

_FIELD = re.compile(r'"(\w+)"\]? ?[:=] self\.(\w+)')


def problems(board: dict[str, Any]) -> list[str]:
    """Everything in a dashboard that the model does not have, or has otherwise; each with its place."""
    found = list(_check(board, dashboard.Dashboard, "dashboard"))
    for number, panel in enumerate(board["panels"]):
        if panel["type"] == "row":
            continue
        plugin = importlib.import_module(f"grafana_foundation_sdk.models.{panel['type']}")
        place = f"panels[{number}]"
        found += _check(panel["options"], plugin.Options, f"{place}.options")
        if hasattr(plugin, "FieldConfig"):
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            found += _check(custom, plugin.FieldConfig, f"{place}.fieldConfig.defaults.custom")
    return found


@functools.cache
def _fields(model: type) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it must be there."""
    hints = typing.get_type_hints(model)
    names = _FIELD.findall(inspect.getsource(model.to_json))
    assert {attribute for _, attribute in names} == set(hints), model
    return {name: (hints[attribute], type(None) not in typing.get_args(hints[attribute])) for name, attribute in names}


def _check(value: Any, model: Any, place: str) -> Iterator[str]:
    """What is wrong with a value that should be of this type."""
    origin, inner = typing.get_origin(model), typing.get_args(model)
    if model is variants.Dataquery:
        yield from _check(value, prometheus.Dataquery, place)
    elif model in (Any, object):
        return
    elif origin in (typing.Union, types.UnionType):
        tries = [list(_check(value, one, place)) for one in inner]
        if all(tries):
            yield from min(tries, key=len)
    elif origin is typing.Literal:
        if value not in inner:
            yield f"{place}: {value!r} is none of {inner}"
    elif origin is list:
        if isinstance(value, list):
            for number, item in enumerate(value):
                yield from _check(item, inner[0], f"{place}[{number}]")
        else:
            yield f"{place}: not a list: {value!r}"
    elif origin is dict:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from _check(item, inner[1], f"{place}.{name}")
        else:
            yield f"{place}: not an object: {value!r}"
    elif issubclass(model, enum.Enum):
        if value not in [member.value for member in model]:
            yield f"{place}: {value!r} is none of {[member.value for member in model]}"
    elif hasattr(model, "to_json"):
        yield from _check_object(value, model, place)
    elif not _is_a(value, model):
        yield f"{place}: {value!r} is not of type {model.__name__}"


def _check_object(value: Any, model: type, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: not an object: {value!r}"
        return
    fields = _fields(model)
    for name, item in value.items():
        if name not in fields:
            yield f"{place}: there is no field {name!r}"
        else:
            yield from _check(item, fields[name][0], f"{place}.{name}")
    for name, (_, needed) in fields.items():
        if needed and name not in value:
            yield f"{place}: {name!r} is missing"


def _is_a(value: Any, model: type) -> bool:
    if isinstance(value, bool):
        return model is bool
    return isinstance(value, (int, float) if model is float else model)
