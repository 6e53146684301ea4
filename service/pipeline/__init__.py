"""Values in, arrays out: from the bytes of an image to the class of each of its pixels. Knows neither HTTP nor settings."""

import os

# ONNX Runtime 1.31 and later report to their maker, and write an event database into the home folder, unless told otherwise
# before they are imported. A frame from a car is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
