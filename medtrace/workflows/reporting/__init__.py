"""The report of an evaluation: what is read, how it is laid out, where it is written."""
