"""Runs: from settings to a plan, from a plan to a finished run folder."""
