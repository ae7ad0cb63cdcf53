"""Finished networks for those who only predict: a sparse file, what reads it, and how fast that is."""
