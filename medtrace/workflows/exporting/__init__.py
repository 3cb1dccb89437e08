"""Parts of the export of trained networks as standalone programs."""
