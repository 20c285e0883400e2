"""Metrics and traces, seen from outside."""
