"""Data sets in memory or streamed, augmentation, and data loaders that gather batches on the device."""
