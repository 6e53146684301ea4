"""The PyTorch side of fcn-serve: networks, training, evaluation and the export to an artifact that ``service`` serves.

In the order in which a model is made:

- :mod:`models.nets.network`  what every network promises
- :mod:`models.nets.encoders`, :mod:`models.nets.fcn`  EfficientNet-Lite, and the fully convolutional network on top of it
- :mod:`models.nets.vgg`, :mod:`models.nets.resnet`, :mod:`models.nets.deconvnet`  the other networks, a paper each
- :mod:`models.nets.upsampling`  how maps grow: what the networks use, and what they might
- :mod:`models.nets.architectures`  all of them by name
- :mod:`models.exporting.weights`  published state dicts into them
- :mod:`models.training.classes`  class tables
- :mod:`models.training.data`  folders of frames and labels, the augmentation
- :mod:`models.scenes`  a generator of street scenes with exact labels, where there is no data (numpy and OpenCV alone)
- :mod:`models.training.losses`  what training minimises
- :mod:`models.train`  ``python -m models.train``
- :mod:`models.training.metrics`  the paper's four scores
- :mod:`models.training.checkpoint`  what a checkpoint file holds, written whole, read without running code
- :mod:`models.evaluate`  ``python -m models.evaluate``
- :mod:`models.exporting.receptive_field`  stride, receptive field and halo, computed from the network
- :mod:`models.exporting.folding`  a network as it is traced
- :mod:`models.exporting.artifact`  a graph and its manifest on disk, in one file or with its weights beside it
- :mod:`models.exporting.precision`  a graph in int8 or half precision
- :mod:`models.export`  ``python -m models.export``: weights to ONNX artifact, refused where it disagrees with PyTorch
- :mod:`models.reach`  ``python -m models.reach``: how far an artifact effectively sees, measured on frames
- :mod:`models.adopt`  ``python -m models.adopt``: a foreign ONNX file to an artifact
- :mod:`models.exporting.card`  the model card beside the artifact

These files import the light half of ``service``; :mod:`models.evaluate` also imports the serving code, because it scores what
is served. ``service`` never imports this package.
"""

import os

# Read when onnxruntime is imported, at the top of these commands: no reports to its maker, no database in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
