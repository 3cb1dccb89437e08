"""The report of an evaluation: reading, layout and writing."""
