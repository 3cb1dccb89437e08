"""Parts of `prepare`: passes over the scans, and writing."""
