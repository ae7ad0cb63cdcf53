"""Sparse CPU kernels for training and inference of networks with fixed masks, at a cost proportional to the density."""
