"""Labeled pictures: loads data sets, samples the few pictures of a run, and makes batches."""
