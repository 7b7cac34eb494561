"""Stain normalisation: fitting stains, what slides are brought to, and keeping both; numpy only."""
