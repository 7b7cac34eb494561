"""How good something is: labels, splits, subsets, leakage, figures and their uncertainty; numpy only."""
