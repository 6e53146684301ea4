"""The network's outputs to a result."""
