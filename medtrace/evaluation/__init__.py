"""Measuring: scores, certificates, conformal radii, traceability by segmentation, studies on TraceBench."""
