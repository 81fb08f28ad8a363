"""Measures what the adapter costs, compared with padded texts and with plain CLIP: examples/benchmark.py."""
