"""Stores: records, ranked sets, a log and bytes per slice, changed by one generic guarded commit."""

from homenode_directory.store.open import open_store

__all__ = ["open_store"]
