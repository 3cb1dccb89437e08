"""Natural images in their full depth: read, and written beside a trace."""
