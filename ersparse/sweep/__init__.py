"""Sweeps: the jobs of a command line, the launchers that run them, and their progress."""
