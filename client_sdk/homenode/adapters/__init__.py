"""Homenode in the idiom of agent frameworks: translation only, no protocol. Each needs its own extra."""
