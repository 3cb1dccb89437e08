"""Landmarks: tables and Slicer's markups of them, read into millimeters RAS."""
