"""How prompts enter, cross and leave a tower, and where each model family keeps its parts."""
