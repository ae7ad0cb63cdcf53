"""A sweep on a SLURM cluster: what is asked for, what waits in the queue, what runs on a node."""
