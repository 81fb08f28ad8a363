"""Turns the results of runs into tables, plots and model cards."""
