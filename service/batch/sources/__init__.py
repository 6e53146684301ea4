"""Where frames come from: images, videos, bags."""
