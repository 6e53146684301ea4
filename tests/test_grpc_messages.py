"""The committed descriptors, against their source and against Triton's. ``python tests/test_grpc_messages.py`` writes them."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from service.api.v2.grpc import messages, refusals
from service.errors import LEAVES, Overloaded

FOLDER = messages.DESCRIPTORS.parent


def compiled(target: Path) -> FileDescriptorSet:
    """What protoc makes of the two files and of what they import."""
    common = importlib.resources.files("grpc_tools") / "_proto"
    command = ["protoc", f"-I{FOLDER}", f"-I{common}", "--include_imports", f"--descriptor_set_out={target}"]
    assert protoc.main([*command, "inference.proto", "status.proto"]) == 0
    return FileDescriptorSet.FromString(target.read_bytes())


def test_the_committed_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """A change of a .proto file is not forgotten."""
    assert compiled(tmp_path / "set") == FileDescriptorSet.FromString(messages.DESCRIPTORS.read_bytes())


def test_every_field_has_the_number_and_the_type_that_tritons_client_knows() -> None:
    """And each call takes and gives the messages that it names; both sets of messages live in one process."""
    service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
    ours = messages.POOL.FindFileByName("inference.proto")
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **service_pb2.model__config__pb2.DESCRIPTOR.message_types_by_name}
    fields = 0
    pending = [(message, theirs[name]) for name, message in ours.message_types_by_name.items()]
    while pending:
        mine, known = pending.pop()
        assert mine.full_name == known.full_name
        for field in mine.fields:
            other = known.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), (
                field.full_name
            )
            fields += 1
        pending += [(nested, known.nested_types_by_name[name]) for name, nested in mine.nested_types_by_name.items()]
    assert fields > 100
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        other = service.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name


def test_the_error_details_are_those_that_every_client_reads() -> None:
    """The standard error model's own messages read ours."""
    error_details = pytest.importorskip("google.rpc.error_details_pb2")
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    (_, raw), (_, pushback) = refusals.refusal_of(Overloaded("busy", retry_after_s=1.5)).metadata()
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message, pushback) == (8, "busy", "1500")
    info, retry = error_details.ErrorInfo(), error_details.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == ("OVERLOADED", "fcn-serve", {"retry_after_s": "1.5"})
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_every_error_has_a_code() -> None:
    """No leaf of the tree reaches a caller as an unknown one."""
    assert set(refusals.CODES) == set(LEAVES)


def test_no_message_of_ours_is_in_the_pool_of_the_process() -> None:
    """A client's library may register its own under the same names, before or after."""
    mine = messages.POOL.FindFileByName("inference.proto")
    copy = FileDescriptorProto()
    mine.CopyToProto(copy)
    assert messages.InferRequest.DESCRIPTOR.file.pool is messages.POOL


if __name__ == "__main__":
    compiled(messages.DESCRIPTORS)
