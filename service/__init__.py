"""fcn-serve: semantic segmentation with fully convolutional networks, as a service.

The rooms, in the order in which a request walks through them:

- ``api``         the rim: HTTP in, HTTP out; the only place that knows status codes
- ``pipeline``    values in, arrays out; knows neither HTTP nor settings

  - ``decode``      bytes -> H x W x 3 uint8 RGB, upright, limits enforced before decoding
  - ``geometry``    H x W -> the network's h x w
  - ``queue``       admission, deadlines, batches, in front of the engine
  - ``engine``      one ONNX Runtime session: uint8 images -> float32 scores
  - ``labels``      scores -> H x W uint8 labels at the image's own size
  - ``repository``  the artifacts of a folder, each with the ``manifest`` that it carries
  - ``segmenter``   all of these as one straight line

- ``encodings``   label map -> PNG, RLE, npy, overlay, and back
- ``client``      the other end of the wire
- ``cli``         ``fcn-serve serve | segment | models | check``; ``opening`` and ``server`` are behind the first
- ``offline``     images, videos and bags, file by file: what ``segment`` does
- ``settings``    the environment, read once at the rim; ``errors``: the one tree that all of them raise

Nothing in here imports torch or the ``models`` package.
"""

__version__ = "0.1.0"
