"""A method on a scan: the pair and its working grid, slices and patches, and the way back to the scan's own grid."""
