"""The networks, a paper each, and what they are made of."""
