"""`homenode simulate`: what coherence saves, on the real directory, store, session and cache, in virtual time.

`paper` has the published scenarios and figures, `workload` says what is simulated, `agents` and `run` do it over `wire`
and `loop`, `live` at a directory that runs, `edits` writes the texts or `corpus` takes them from a repository, `truth`
keeps the accounts, `figures` sums up and judges, `command` and `plot` show it.
"""

from homenode.cli.simulate.command import register

__all__ = ["register"]
