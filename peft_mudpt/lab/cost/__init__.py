"""What the adapter costs, beside the straightforward way and plain CLIP: examples/benchmark.py."""
