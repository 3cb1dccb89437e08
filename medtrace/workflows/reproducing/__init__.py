"""Reproduction of a paper: its data sets, the rows of its tables, the cost, and the page."""
