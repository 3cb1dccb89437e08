"""The only place that writes: whole files and folders, locks, digests, finished cases."""
