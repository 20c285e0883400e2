"""Metrics and logs. The root alone imports this; everything else tells an `Observer`.

Labels come from closed sets: operations, outcomes, kinds, slices. Never keys, agents, sessions or content.
"""
