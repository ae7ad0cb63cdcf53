"""What runs leave on disk: run folders, run.json, checkpoints, density files, locks."""
