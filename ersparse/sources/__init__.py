"""Source networks: where the masks of a run come from."""
