"""Labelling patches: what is asked next, every answer on disk, and a probe that learns meanwhile."""
