"""Names of artifacts for a store's items: the labels of the namespace and the key, joined by slashes.

`("users", "ann"), "notes"` under the prefix `store/` is `store/users/ann/notes`, so that other agents find it by a name
that they can guess. What a name cannot say is percent-encoded.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote, unquote

from homenode.errors import InvalidArgument

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # categories of characters that names may not hold


def name_of(prefix: str, namespace: Sequence[str], key: str) -> str:
    """The artifact of an item. Raises InvalidArgument for lone surrogates."""
    return folder_of(prefix, namespace) + _part(key)


def folder_of(prefix: str, namespace: Sequence[str]) -> str:
    """What the names of all items in a namespace, and below it, begin with."""
    return prefix + "".join(_part(label) + "/" for label in namespace)


def item_of(prefix: str, name: str) -> tuple[tuple[str, ...], str]:
    """The namespace and the key of an artifact's name that begins with `prefix`."""
    *labels, key = (unquote(part) for part in name[len(prefix) :].split("/"))
    return tuple(labels), key


@functools.lru_cache(8_192)
def _part(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the name of an item has lone surrogates, which UTF-8 cannot say") from None
    said = "".join(_escaped(c) if c in "%/" or unicodedata.category(c) in _HIDDEN else c for c in text)
    # Names are kept in Unicode's normal form C; what is not in it keeps its code points this way.
    return said if unicodedata.is_normalized("NFC", "/" + said) else quote(text, safe=" ")


def _escaped(character: str) -> str:
    return quote(character, safe="")
