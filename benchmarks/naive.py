"""A straightforward service, as one writes it in an afternoon: what fcn-serve is compared with.

FastAPI, ``UploadFile``, Pillow, normalisation in numpy, an ONNX Runtime session with its defaults, the scores enlarged to the
image's size, numpy's argmax, Pillow's PNG. The same weights at the same working size, exported by the legacy exporter.

``python benchmarks/naive.py GRAPH.onnx PORT``; GRAPH takes N x 3 x h x w float32 and gives N x K x h/4 x w/4.
"""

import io
import sys

import cv2
import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Response, UploadFile
from PIL import Image

MEAN, STD = np.float32(127), np.float32(128)
PIXELS = 448 * 600
MULTIPLE = 16

app = FastAPI()
session: ort.InferenceSession


@app.get("/health")
def health() -> str:
    """It is up."""
    return "ok"


@app.post("/segment")
def segment(image: UploadFile) -> Response:
    """An image in, a PNG of class ids out."""
    picture = Image.open(image.file).convert("RGB")
    aspect = picture.width / picture.height
    height = (PIXELS / aspect) ** 0.5
    size = round(height * aspect / MULTIPLE) * MULTIPLE, round(height / MULTIPLE) * MULTIPLE
    x = (np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32) - MEAN) / STD
    scores = session.run(None, {"input": x.transpose(2, 0, 1)[None]})[0][0]
    full = cv2.resize(np.ascontiguousarray(scores.transpose(1, 2, 0)), picture.size, interpolation=cv2.INTER_LINEAR)
    labels = full.argmax(axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
