"""Trained networks over slides and stores: predictions per patch and slide, features per slide."""
