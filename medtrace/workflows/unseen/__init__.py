"""Checks that a run's input is new to it and similar to its training data."""
