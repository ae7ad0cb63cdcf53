"""Files that runs leave on disk: run folders, run.json, checkpoints, density files and locks."""
