"""Data sets as arrays in memory, and data loaders that gather batches from them on the device."""
