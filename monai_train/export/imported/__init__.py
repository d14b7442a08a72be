"""Make a bundle of a classifier that was trained elsewhere (bundle format 3)."""
