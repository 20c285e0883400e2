"""The worker: a process that serves `KvTierService` for one model and the artifacts of one workspace.

It is a session of the directory like any other, with a watch on the workspace instead of copies: nobody who writes
waits for it. One thread runs the engine and owns the pool (`keeper`, `generation`); everything else runs in the event
loop (`service`, `coherence`, `placement`) and hands work to that thread in turn (`turns`).
"""
