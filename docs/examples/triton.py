"""The same through Triton's client: the class ids in each image. Usage: ``python triton.py HOST:PORT MODEL IMAGE...``."""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

host, model, *names = sys.argv[1:]
client = triton.InferenceServerClient(host)
for name in names:
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([Path(name).read_bytes()], dtype=object))
    labels = client.infer(model, [image]).as_numpy("labels")
    print(name, labels.shape, np.unique(labels).tolist())
