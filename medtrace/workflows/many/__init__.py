"""Many cases at once: processes, a cluster, and each case's outcome."""
