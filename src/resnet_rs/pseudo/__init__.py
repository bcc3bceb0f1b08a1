"""Pseudo-labels: what trained networks say of unlabeled images, as a table that students train on."""
