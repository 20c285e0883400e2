"""Helpers that several test folders share; fixtures over them are in `tests/conftest.py`."""
