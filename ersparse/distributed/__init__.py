"""Distributed runs: rank processes, collective operations, rendezvous, and signals."""
