"""fcn-serve: semantic segmentation with fully convolutional networks, as a service.

A frame passes through these packages in this order:

- ``api``        HTTP in, HTTP out; the only package that knows status codes

  - ``transport``  uvicorn's protocol with our bounds; sheds overload before a request exists
  - ``segment``    ``POST /segment``: parse, await the data plane, reply
  - ``stream``     ``WS /stream``; ``v2``: the Open Inference Protocol

- ``serving``    many callers, one predictor

  - ``dataplane``  one request, whatever its transport
  - ``scheduler``  admission, lanes, deadlines, batches; ``deadline``, ``latest``, ``timings``, ``trimming``

- ``pipeline``   values in, arrays out: no HTTP, no settings, no threads

  - ``predictor``  prepare -> run -> finish, for one image or a batch
  - ``codecs``     bytes -> H x W x 3 uint8 RGB, upright; limits before decoding
  - ``plan``       H x W -> the network's h x w; ``workload``: what that costs
  - ``engine``     one ONNX Runtime session; ``repository``: the artifacts of a folder; ``manifest``: what each says of itself
  - ``tasks``      outputs -> labels at the image's own size

- ``encodings``  labels -> PNG, RLE, npy, overlay, and back

Beside that line:

- ``client``     the other end of the wire
- ``batch``      images, videos and bags, file by file, without a server
- ``cli``        ``fcn-serve serve | segment | models | check``
- ``compose``    settings to objects; ``server``: the application behind uvicorn; ``process``: what changes the whole process
- ``settings``   the environment, read once; ``errors``: the tree of all errors; ``log``

Nothing in here imports torch or the ``models`` package.
"""

__version__ = "0.1.0"
