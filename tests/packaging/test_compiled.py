"""What `make compiled` hands to the compiler is the source, with dataclasses that mean the same.

That the result works is what `make compiled-test` finds out.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import get_type_hints

import pytest

from deploy.dev import compiled
from tests.support.interpreted import INTERPRETED

MODULES = [
    ".".join(part for part in (compiled.PACKAGE, folder, name) if part)
    for folder, names in compiled.MODULES.items()
    for name in names.split()
]


@INTERPRETED
@pytest.mark.parametrize("name", MODULES)
def test_dataclasses_are_made_of_the_same_fields(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = import_module(name)
    copy = ModuleType(f"{name}_rewritten")
    copy.__file__ = original.__file__
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    source = compiled.rewritten(inspect.getsource(original))
    exec(compile(source, f"{name}, rewritten", "exec"), copy.__dict__)
    for kind in vars(original).values():
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == name):
            continue
        other = getattr(copy, kind.__name__)
        assert list(inspect.signature(other).parameters) == list(inspect.signature(kind).parameters)
        assert str(get_type_hints(other)).replace("_rewritten", "") == str(get_type_hints(kind))
        if all(
            parameter.default is not inspect.Parameter.empty
            for parameter in inspect.signature(kind).parameters.values()
        ):
            assert repr(other()) == repr(kind())
