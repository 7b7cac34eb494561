"""What every room stands on: declared parameters, progress, locks, files that are complete or not there."""
