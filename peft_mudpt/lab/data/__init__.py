"""Pictures with labels: where they come from, which are drawn, and how they become batches."""
