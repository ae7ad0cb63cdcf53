"""A run: its identity, its folder, its checkpoints, and how it goes from a command to a result."""
