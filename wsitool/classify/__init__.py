"""Classifiers from few labels: subsets, splits, training, figures."""
