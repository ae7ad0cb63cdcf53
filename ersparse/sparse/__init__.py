"""Core algorithms on tensors: densities, masks, flow repair, scores, rewiring and edge-popup.

Functions take and return tensors and plain values. Nothing here reads a configuration, writes a file or uses Lightning.
"""
