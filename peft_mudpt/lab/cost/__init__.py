"""The benchmark of examples/benchmark.py: costs of the adapter, the adapter with padded texts, and plain CLIP."""
