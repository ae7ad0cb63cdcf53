"""Runs on several devices and nodes: processes, collectives, rendezvous, signals."""
