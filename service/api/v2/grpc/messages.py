"""The messages of inference.proto and status.proto, in a descriptor pool of their own.

protoc's Python code registers its messages in the pool of the whole process, where Triton's and KServe's clients register
messages of the same names. One process may need both. And it runs with no older protobuf than that of its generator. So the
descriptors themselves are read here; ``python tests/test_grpc_messages.py`` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

DESCRIPTORS = Path(__file__).with_name("inference.binpb")
"""A FileDescriptorSet of both files and what they import."""

SERVICE = "inference.GRPCInferenceService"


def _read_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _read_pool()


def message(name: str) -> Any:
    """Return the class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


InferRequest = message("inference.ModelInferRequest")
InferResponse = message("inference.ModelInferResponse")
StreamResponse = message("inference.ModelStreamInferResponse")
Status = message("google.rpc.Status")
RetryInfo = message("google.rpc.RetryInfo")
ErrorInfo = message("google.rpc.ErrorInfo")
