"""From weights to an artifact that the service opens."""
