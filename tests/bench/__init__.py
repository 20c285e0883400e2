"""Figures beside the systems that one would use otherwise: `make bench`, or `python -m tests.bench --help`.

Every row is measured in one run with its peers: rounds take turns, ratios are medians over rounds, and load generators
are processes of their own. `rows` says what a row is, `running` starts what is measured, `load` generates load, and the
modules named in `__main__` hold the rows.
"""
