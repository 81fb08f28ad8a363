"""Classifies images with a CLIP: from class names and images to class probabilities."""
