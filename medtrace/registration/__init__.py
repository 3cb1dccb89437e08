"""Alignment and deformation of one image to another."""
