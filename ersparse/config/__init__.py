"""Settings: the schema of every key, the options of conf/, and command lines."""
