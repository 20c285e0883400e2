"""Which items a search finds: LangGraph's filters on values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from homenode.errors import InvalidArgument

_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether a value has every field of the filter.

    A field is compared with a plain value, a nested filter, or operators: `$eq $ne $gt $gte $lt $lte`; the last four
    hold for numbers alone. Raises InvalidArgument for another operator.
    """
    return all(_fits(value.get(field), condition) for field, condition in (wanted or {}).items())


def _fits(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        if any(name.startswith("$") for name in condition):
            return all(_holds(value, name, bound) for name, bound in condition.items())
        return isinstance(value, Mapping) and matches(value, condition)
    if isinstance(condition, list | tuple):
        same_length = isinstance(value, list | tuple) and len(value) == len(condition)
        return same_length and all(map(_fits, value, condition))
    return bool(value == condition)


def _holds(value: Any, name: str, bound: Any) -> bool:
    if name == "$eq":
        return bool(value == bound)
    if name == "$ne":
        return bool(value != bound)
    if name not in _ORDER:
        raise InvalidArgument(f"{name!r} is no operator of a filter: use $eq, $ne, {', '.join(_ORDER)}")
    try:
        return _ORDER[name](float(value), float(bound))
    except (TypeError, ValueError):
        return False
