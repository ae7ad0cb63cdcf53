"""Searches: sweeps whose jobs Optuna proposes, one trial after another, from the results of those before."""
