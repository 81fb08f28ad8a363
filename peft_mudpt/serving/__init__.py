"""What a server needs of a trained adapter: folded prompts, or one file that classifies by itself."""
