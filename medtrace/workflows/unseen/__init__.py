"""Whether what a run is given is new to it, and like what it was trained on."""
