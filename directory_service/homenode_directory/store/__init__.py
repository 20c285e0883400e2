"""Stores: records, ranked sets, a log and bytes per slice, changed by one generic guarded commit."""
