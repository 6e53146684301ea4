"""The PyTorch side of fcn-serve: networks, training, evaluation and the export to an artifact that ``service`` serves.

In the order of a model's life:

- :mod:`models.encoders`  EfficientNet-Lite, the feature extractor
- :mod:`models.fcn`  the fully convolutional network on top of it
- :mod:`models.data`  folders of frames and labels, class tables, the augmentation
- :mod:`models.scenes`  a generator of street scenes with exact labels, for whoever has no data (numpy and OpenCV alone)
- :mod:`models.losses`  what training minimises
- :mod:`models.train`  ``python -m models.train``
- :mod:`models.metrics`  the paper's four scores
- :mod:`models.evaluate`  ``python -m models.evaluate``
- :mod:`models.receptive_field`  stride, receptive field and halo, computed from the network
- :mod:`models.export`  ``python -m models.export``: checkpoint to ONNX artifact, refused where it disagrees with PyTorch

May import the light half of ``service`` (manifest, geometry, labels, segmenter); ``service`` never imports this package.
"""

import service.pipeline  # noqa: F401  # before onnxruntime is: it switches its reports off
