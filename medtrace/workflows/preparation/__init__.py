"""What `prepare` is made of: passes over the scans, and writing."""
