"""Federated learning in the lab: pictures are divided over clients, and adapters are trained with and without them."""
