"""Sweeps on this machine: slots, processes, and the pool that runs jobs on them."""
