"""Cutting slides into patch stores: every needed native tile is decoded once, every failure is on record."""
