"""Training loops of one's own: rewiring, pruning, and a summary of a network in plain PyTorch."""
