"""Sweeps on this machine: slots, processes, the pool of jobs."""
