"""Header blocks: written without the dynamic table, so that they are constants; read by `hpack`, each form once.

Encoders of gRPC repeat themselves: after its first calls a client sends the same few bytes again and again. A block
that did not change the dynamic table stands for the same headers until the table changes, so it is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from homenode_api.http2.frames import Broken, Code

Headers = tuple[tuple[str, str], ...]
T = TypeVar("T")

KNOWN_MAX = 256  # blocks that are remembered for a connection
KNOWN_BYTES_MAX = 2_048  # of a block and what it says; a longer one is not

_WHOLE: dict[tuple[bytes, bytes], int] = {}
_NAMES: dict[bytes, int] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _NAMES.setdefault(_name, _index)
    _WHOLE.setdefault((_name, _value), _index)


def encode(headers: Iterable[tuple[str, str | bytes]]) -> bytes:
    """A header block of static entries and literals that enter no table. Values are ASCII."""
    block = bytearray()
    for name, value in headers:
        raw, text = name.encode("ascii"), value if isinstance(value, bytes) else value.encode("ascii")
        whole = _WHOLE.get((raw, text))
        if whole is not None:
            block += _number(whole, 7, 0x80)
            continue
        known = _NAMES.get(raw)
        block += _number(known or 0, 4, 0)
        if known is None:
            block += _number(len(raw), 7, 0) + raw
        block += _number(len(text), 7, 0) + text
    return bytes(block)


def _number(value: int, bits: int, flags: int) -> bytearray:
    encoded: bytearray = encode_integer(value, bits)
    encoded[0] |= flags
    return encoded


class _Table(HeaderTable):
    """Counts its changes."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        """See `HeaderTable`."""
        self.changes += 1
        super().add(name, value)


class HeaderReader(Generic[T]):
    """Reads the header blocks of one connection, in their order.

    Args:
        make: what is made of a block's headers; must depend on nothing else, and must not fail.
        bytes_max: most bytes of a header list, with 32 for each entry.
    """

    def __init__(self, make: Callable[[Headers], T], bytes_max: int) -> None:
        self._make = make
        self._decoder = Decoder(max_header_list_size=bytes_max)
        self._table = _Table()
        self._decoder.header_table = self._table
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """What the block says. Raises Broken: the table cannot be trusted any more."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table.changes
        if block and block[0] & 0xE0 == 0x20:
            self._table.changes += 1  # of its size
        try:
            headers = tuple(
                (str(name, "latin-1"), str(value, "latin-1")) for name, value in self._decoder.decode(block, raw=True)
            )
        except (HPACKError, IndexError):
            raise Broken(Code.COMPRESSION_ERROR, "a header block cannot be read") from None
        made = self._make(headers)
        if self._table.changes != before:
            self._known.clear()
        elif len(block) + sum(len(name) + len(value) for name, value in headers) <= KNOWN_BYTES_MAX:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[block] = made
        return made
