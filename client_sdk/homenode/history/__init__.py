"""What agents did: recorded (`recorder`, `recorded`), and held against what is promised.

`operations` is the form of a history, `zones` judges whether it is linearizable, over `register`, `promises` has what
lazy artifacts promise, `report` puts all of it together for files. Pure but for reading and writing them.
"""
