"""Source networks: where the masks of a run come from. Each source draws masks and repairs their flow."""
