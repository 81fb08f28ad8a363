"""One adapter's parameters, and the network that fuses the prompts of the two towers."""
