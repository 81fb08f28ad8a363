"""Class names and images to class probabilities."""
