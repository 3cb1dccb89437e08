"""Uncertainty of a translation's intensities, and detection of changes that nothing explains."""
