"""SDPT (arXiv 2407.11414): prompt tuning of detectors that fuse text and image, such as Grounding DINO."""
