"""The only place that writes: atomic files and folders, their places, locks, finished cases."""
