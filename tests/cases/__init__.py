"""Failing inputs, and what is right: a generator for each kind of fault (docs/reliability.md)."""
