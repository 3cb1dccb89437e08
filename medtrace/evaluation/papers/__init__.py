"""The data of papers: where it lies, and the lists of images that their recipes make of it."""
