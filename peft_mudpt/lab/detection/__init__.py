"""Object detection as a task of the lab: its experiments, their methods and options."""
