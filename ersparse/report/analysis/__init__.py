"""Numbers of a report, computed from run folders: reading, grouping by seed, statistics, and the paper's values."""
