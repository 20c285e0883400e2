"""Which KV worker holds which artifact version, and which one should serve a prompt. Pure: no I/O, no gRPC, no clock.

A hint and no truth: each server has an index of its own, made from the streams of the workers and lost with the
process. What keeps a superseded version from being used is elsewhere: callers ask for the versions that their coherent
reads returned, and KV is found only under its version. Here superseded versions leave at once, in the commit itself, so
that nobody is sent after them.
"""
