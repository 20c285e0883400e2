"""The policies of prefixes, as one process knows them for the workspaces of a slice.

A workspace's policies are one record, with a number (`rev`) that rises with every change. Nothing is judged by this
knowledge alone: a commit that gives an artifact its content compares the number, and a refusal brings the record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from homenode_directory.protocol.model import Policy
from homenode_directory.store import fields

KNOWN_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Table:
    """One workspace's: `rev` as it is stored (None: there was never any), and the policies by prefix."""

    rev: str | None
    by_prefix: Mapping[str, Policy]

    @classmethod
    def of(cls, record: Mapping[str, str | int] | None) -> Table:
        """From the store's record."""
        return cls(str(record["rev"]), fields.decode_policies(record)) if record else NONE

    @property
    def number(self) -> int:
        """How often it has changed."""
        return int(self.rev or 0)

    def nearest(self, key: str) -> Policy | None:
        """The policy of the longest prefix of `key` that has one."""
        found = [prefix for prefix in self.by_prefix if key.startswith(prefix)]
        return self.by_prefix[max(found, key=len)] if found else None


NONE = Table(None, {})


class Policies:
    """See the module."""

    def __init__(self) -> None:
        self._tables: OrderedDict[str, Table] = OrderedDict()  # by the record's key

    def __bool__(self) -> bool:
        """Whether any workspace is known to have some."""
        return bool(self._tables)

    def table(self, key: str) -> Table:
        """What is known of the record `key`."""
        return self._tables.get(key, NONE)

    def nearest(self, artifact: str) -> Policy | None:
        """The policy that an artifact inherits, as far as is known here."""
        table = self._tables.get(fields.policies_key(artifact))
        return table.nearest(fields.key_of(artifact)) if table is not None else None

    def learn(self, key: str, record: Mapping[str, str | int] | None) -> Table:
        """What the store has shown; an older record than is known tells nothing. Returns what is known now."""
        table = Table.of(record)
        if record and table.number < self.table(key).number:
            return self.table(key)
        self._tables.pop(key, None)
        if table.rev is not None:
            self._tables[key] = table
            if len(self._tables) > KNOWN_MAX:
                self._tables.popitem(last=False)
        return table

    def clear(self) -> None:
        """The store's memory may be another one."""
        self._tables.clear()
