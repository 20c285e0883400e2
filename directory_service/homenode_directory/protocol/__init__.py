"""The rule book: pure data and functions, no I/O, no clock, no randomness."""
