"""Loggers: dashboards beside metrics.csv and run.json, which every run writes. Options of conf/logger name them."""
