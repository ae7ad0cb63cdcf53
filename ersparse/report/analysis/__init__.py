"""From run folders to numbers: reading runs, grouping them, statistics."""
