"""Sweeps on a SLURM cluster: options, checks before submission, the queue, and the attempts on the nodes."""
