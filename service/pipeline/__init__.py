"""Values in, arrays out: from the bytes of an image to the class of each of its pixels. Knows neither HTTP nor settings."""
