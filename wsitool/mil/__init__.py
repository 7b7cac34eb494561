"""Slides and patients as what has a label: bags of patches, their heads, one run of `classify` over them."""
