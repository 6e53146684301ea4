"""Requests and replies of an inference as messages of gRPC. The tensors themselves are those of REST's binary data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.api.v2 import schemas as wire
from service.api.v2 import tensors
from service.api.v2.grpc.messages import InferRequest, InferResponse
from service.api.v2.memory import Regions
from service.errors import BadParameter, EmptyBody


def read(body: bytes, in_memory: tensors.InMemory) -> tensors.Order:
    """Understand a request; for a thread that may compute.

    Takes:
        body: a serialised ModelInferRequest
        in_memory: gives the bytes of an input that is in shared memory
    Raises:
        BadParameter, EmptyBody: as ``tensors.order_of``; also if the message cannot be read
    """
    try:
        request = InferRequest.FromString(body)
    except DecodeError as error:
        raise BadParameter("the message is not a ModelInferRequest", parameter="message") from error
    if not (request.inputs or request.raw_input_contents):
        raise EmptyBody("the request has no inputs: send an image")
    asked = wire.check(
        wire.InferRequest,
        {
            "id": request.id or None,
            "model_name": request.model_name or None,
            "model_version": request.model_version or None,
            "parameters": values(request.parameters),
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": [*tensor.shape],
                    "parameters": values(tensor.parameters),
                }
                for tensor in request.inputs
            ],
            "outputs": [{"name": output.name, "parameters": values(output.parameters)} for output in request.outputs],
        },
    )
    order = tensors.order_of(asked, lambda _: _content(request), in_memory)
    return replace(order, outputs=tuple(replace(wanted, binary=True) for wanted in order.outputs))


def write(order: tensors.Order, made: Sequence[Sequence[tensors.Part]], model: tuple[str, str], regions: Regions) -> Any:
    """Put a ModelInferResponse together; for a thread that may compute.

    Takes:
        made: of each image, its parts, as ``order.outputs`` has them
        model: name and version
        regions: of shared memory, for the outputs that go there
    Raises:
        BadParameter: if images of different sizes were to be one tensor
    """
    response = InferResponse(model_name=model[0], model_version=model[1], id=order.id or "")
    for at, wanted in enumerate(order.outputs):
        parts = [parts[at] for parts in made]
        output = tensors.output_tensor(order, wanted, parts, regions)
        described = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        for name, value in (output.parameters or {}).items():
            setattr(described.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
        # An output in shared memory has an empty element: clients count them.
        content = [] if wanted.place else [part.data for part in parts]
        response.raw_output_contents.append(b"".join(content))
    if order.says_final:
        response.parameters["triton_final_response"].bool_param = True
    return response


def values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values; None for one that has none."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found


def _content(request: Any) -> memoryview | list[bytes] | None:
    """Return the content of the one input: its bytes, or the elements of ``BYTES``; None if it has none."""
    tensor, raw = request.inputs[0], request.raw_input_contents
    if raw:
        if len(raw) != 1 or tensor.HasField("contents"):
            reason = "one input has one element of raw_input_contents, and then no contents"
            raise BadParameter(f"raw_input_contents: {reason}", parameter="raw_input_contents")
        return memoryview(raw[0])
    if not tensor.HasField("contents"):
        return None
    if tensor.datatype == "BYTES":
        return [*tensor.contents.bytes_contents]
    return _numbers(tensor.contents.uint_contents).data


def _numbers(values: Sequence[int]) -> NDArray[np.uint8]:
    """Return the numbers of a ``UINT8`` tensor, a block at a time: other threads run in between."""
    found = np.empty(len(values), np.uint8)
    for at in range(0, len(values), tensors.BLOCK):
        block = np.array(values[at : at + tensors.BLOCK], np.uint32)
        if (block > 255).any():
            raise BadParameter("contents: UINT8 are whole numbers from 0 to 255", parameter="contents")
        found[at : at + len(block)] = block
    return found
