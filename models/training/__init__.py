"""Data, losses, metrics and checkpoints."""
