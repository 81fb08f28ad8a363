"""Results of many runs as tables, plots and model cards."""
