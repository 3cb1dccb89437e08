"""Parts of the export of trained networks as programs of their own."""
