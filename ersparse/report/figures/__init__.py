"""Figures of the report and of the commands `density` and `rewiring`."""
