"""Image classification as a task of the lab: its experiments and their plans."""
