"""The core: tensors in, tensors out. No framework, no configuration, no input or output."""
