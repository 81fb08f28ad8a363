"""Prepares a trained adapter for serving: folds its prompts, or exports its classifier or its encoders."""
