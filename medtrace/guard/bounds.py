"""Bounds of what a file from elsewhere may ask for."""

MAX_NUMBER = 100_000
"""Largest whole number, of channels, layers or cases, that a method is built from; loops may run as often."""
