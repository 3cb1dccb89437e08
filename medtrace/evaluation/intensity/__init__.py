"""How far a translation's intensities may be from the true ones, and which of its changes nothing explains."""
