"""Export of trained networks for inference: the sparse file format, its reader, and a benchmark."""
