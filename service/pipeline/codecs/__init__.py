"""Bytes to pictures: one file a format or a step; ``decoding`` is the straight line through them."""
