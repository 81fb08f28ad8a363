"""Prepares a trained adapter for serving: folds its prompts, or exports the classifier as one file."""
