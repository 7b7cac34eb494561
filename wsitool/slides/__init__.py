"""Slides as they are: readers, geometry, resolution, tissue, quality, lists of slides, outlines."""
