"""Many cases at once: processes, a cluster, and what became of each."""
