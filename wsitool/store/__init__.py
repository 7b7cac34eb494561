"""Patch stores: create, open, find, and join them to a collection."""
