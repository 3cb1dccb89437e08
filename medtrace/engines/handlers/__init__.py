"""Handlers that let a training be followed: progress, log, best weights, tracking."""
