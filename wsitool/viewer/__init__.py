"""A local page over collections, predictions and runs: `wsitool view` (extra [view])."""
