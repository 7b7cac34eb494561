"""Stores as other programs read them."""
