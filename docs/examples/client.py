"""The share of every class in each image. Usage: ``python client.py URL IMAGE...``."""

import sys

from service.client import Client

url, *images = sys.argv[1:]
with Client(url) as client:
    for image in images:
        mask = client.segment(image)
        print(image, mask.labels.shape, {found.name: round(found.share, 3) for found in mask.classes})
