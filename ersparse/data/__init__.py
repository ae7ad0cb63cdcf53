"""Images in memory, and batches made of them on the device."""
