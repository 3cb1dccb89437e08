"""A paper run again: its data sets, the rows of its tables, what it costs, and the page."""
