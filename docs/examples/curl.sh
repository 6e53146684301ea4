#!/usr/bin/env bash
# An image in, a mask, an overlay and run lengths out. Usage: curl.sh IMAGE [URL]
set -euo pipefail
image=$1 url=${2:-http://127.0.0.1:8000}
curl --fail-with-body --silent --show-error -F "image=@$image" "$url/segment" -o mask.png
curl --fail-with-body --silent --show-error --data-binary "@$image" "$url/segment?format=overlay" -o overlay.png
curl --fail-with-body --silent --show-error --data-binary "@$image" "$url/segment?format=rle" -o mask.json
