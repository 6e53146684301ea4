"""Message types that no installed package brings, for publishing serialised messages. Needs no compiler.

rclpy takes a message class whose metaclass holds a ``rosidl_message_type_support_t``. A generated package compiles one from C.
Here its fields are filled by ctypes: the type's name, its description and hash, and the callbacks of Fast DDS' type support.
A serialised message (``publish(bytes)``) is passed on as it is, so the callbacks that serialise are never called.

Layouts: rosidl_runtime_c/message_type_support_struct.h, rosidl_runtime_c/type_description/type_description__struct.h and
rosidl_typesupport_fastrtps_cpp/message_type_support.h. Hash: REP 2016, "RIHS01".
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAST_DDS = b"rosidl_typesupport_fastrtps_c"

NESTED, NESTED_SEQUENCE, UINT16, INT32, UINT32, FLOAT, DOUBLE, DOUBLE_ARRAY, STRING = 1, 145, 5, 6, 7, 10, 11, 59, 17
"""Numbers of field types, as type_description_interfaces/FieldType.msg has them."""


@dataclass(frozen=True)
class Field:
    """One field of a type."""

    name: str
    type_id: int
    nested: str = ""
    """The type's name, of nested types."""
    capacity: int = 0
    """The length, of arrays."""


Types = Mapping[str, Sequence[Field]]
"""The type itself first, then all that it refers to."""

_Pointer = ctypes.c_void_p
_Handle = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.c_char_p)
_Getter = ctypes.CFUNCTYPE(_Pointer, _Pointer)
_Serialise = ctypes.CFUNCTYPE(ctypes.c_bool, _Pointer, _Pointer)
_Size = ctypes.CFUNCTYPE(ctypes.c_uint32, _Pointer)
_Bound = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(ctypes.c_char))
_Message = ctypes.CFUNCTYPE(_Pointer, _Pointer)


class _Support(ctypes.Structure):
    _fields_ = (
        ("identifier", ctypes.c_char_p),
        ("data", _Pointer),
        ("func", _Handle),
        ("hash", _Getter),
        ("description", _Getter),
        ("sources", _Getter),
    )


class _Callbacks(ctypes.Structure):
    _fields_ = (
        ("namespace", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("serialise", _Serialise),
        ("deserialise", _Serialise),
        ("size", _Size),
        ("largest", _Bound),
        ("key", _Pointer),
    )


class _Text(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


class _FieldType(ctypes.Structure):
    _fields_ = (
        ("type_id", ctypes.c_uint8),
        ("capacity", ctypes.c_uint64),
        ("string_capacity", ctypes.c_uint64),
        ("nested", _Text),
    )


class _Field(ctypes.Structure):
    _fields_ = (("name", _Text), ("type", _FieldType), ("default", _Text))


class _Fields(ctypes.Structure):
    _fields_ = (("data", ctypes.POINTER(_Field)), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


class _Type(ctypes.Structure):
    _fields_ = (("name", _Text), ("fields", _Fields))


class _TypeList(ctypes.Structure):
    _fields_ = (("data", ctypes.POINTER(_Type)), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


class _Description(ctypes.Structure):
    _fields_ = (("type", _Type), ("referenced", _TypeList))


class _Sources(ctypes.Structure):
    _fields_ = (("data", _Pointer), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


class _Hash(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint8), ("value", ctypes.c_uint8 * 32))


_alive: list[object] = []
"""The middleware keeps pointers to type supports until the process ends, as to those of a library."""


def type_hash(types: Types) -> bytes:
    """Compute the hash of a type: 32 bytes, of ``RIHS01_...``."""
    first, *others = types
    document = {
        "type_description": _as_json(first, types[first]),
        "referenced_type_descriptions": [_as_json(name, types[name]) for name in sorted(others)],
    }
    return hashlib.sha256(json.dumps(document).encode()).digest()


def _as_json(name: str, fields: Sequence[Field]) -> dict[str, Any]:
    def one(field: Field) -> dict[str, Any]:
        kind = {"type_id": field.type_id, "capacity": field.capacity, "string_capacity": 0, "nested_type_name": field.nested}
        return {"name": field.name, "type": kind}

    return {"type_name": name, "fields": [one(field) for field in fields]}


def message_class(types: Types) -> type:
    """Make a class that rclpy takes as a message type. Publish ``bytes`` with it, and subscribe with ``raw=True``.

    Takes:
        types: the type, such as ``vision_msgs/msg/LabelInfo``, and those that it refers to
    """
    name = next(iter(types))
    namespace, _, base = name.rpartition("/")
    support = _support(types, namespace.replace("/", "::").encode(), base.encode())
    unused = _Message(lambda _: None)
    _alive.append(unused)
    never_called = _capsule(ctypes.cast(unused, _Pointer).value)
    held = {
        "_TYPE_SUPPORT": _capsule(ctypes.addressof(support)),
        **dict.fromkeys(("_CREATE_ROS_MESSAGE", "_CONVERT_FROM_PY", "_CONVERT_TO_PY", "_DESTROY_ROS_MESSAGE"), never_called),
    }
    return type(f"Metaclass_{base}", (type,), held)(base, (), {})  # type: ignore[no-any-return]


def _support(types: Types, namespace: bytes, name: bytes) -> _Support:
    described = _description(types)
    digest = _Hash(1, (ctypes.c_uint8 * 32)(*type_hash(types)))
    sources = _Sources(None, 0, 0)

    def bound(kind: Any) -> int:
        kind[0] = b"\x00"  # unbounded
        return 0

    callbacks = _Callbacks(
        namespace, name, _Serialise(lambda *_: False), _Serialise(lambda *_: False), _Size(lambda _: 0), _Bound(bound), None
    )

    def handle(_: int, identifier: bytes) -> int | None:
        return ctypes.addressof(support) if identifier == FAST_DDS else None

    support = _Support(
        FAST_DDS,
        ctypes.addressof(callbacks),
        _Handle(handle),
        _Getter(lambda _: ctypes.addressof(digest)),
        _Getter(lambda _: ctypes.addressof(described)),
        _Getter(lambda _: ctypes.addressof(sources)),
    )
    _alive.extend((described, digest, sources, callbacks, support))
    return support


def _description(types: Types) -> _Description:
    first, *others = types
    referenced = (_Type * len(others))(*(_type(name, types[name]) for name in sorted(others)))
    return _Description(_type(first, types[first]), _TypeList(referenced, len(others), len(others)))


def _type(name: str, fields: Sequence[Field]) -> _Type:
    rows = (_Field * len(fields))(
        *(
            _Field(_text(field.name), _FieldType(field.type_id, field.capacity, 0, _text(field.nested)), _text(""))
            for field in fields
        )
    )
    return _Type(_text(name), _Fields(rows, len(fields), len(fields)))


def _text(words: str) -> _Text:
    data = words.encode()
    return _Text(data, len(data), len(data) + 1)


def _capsule(address: int | None) -> object:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, (_Pointer, ctypes.c_char_p, _Pointer)
    capsule: object = make(address, None, None)
    return capsule
