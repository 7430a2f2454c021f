"""The Go original's message schema, as protobuf descriptors made at run time: another implementation to read what ours writes."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["RaftMessage", "RaftMsg"]

_F = descriptor_pb2.FieldDescriptorProto
_UINT64, _INT64, _INT32, _BOOL, _BYTES = _F.TYPE_UINT64, _F.TYPE_INT64, _F.TYPE_INT32, _F.TYPE_BOOL, _F.TYPE_BYTES


def _file(name: str, package: str, syntax: str, needs: tuple[str, ...], types: dict[str, dict[str, tuple[Any, ...]]]) -> Any:
    """A file of messages: {message: {field: (number, type or message name, "repeated" or nothing)}}."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax=syntax, dependency=needs)
    for type_name, fields in types.items():
        message = file.message_type.add(name=type_name)
        for field_name, (number, kind, *label) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_F.LABEL_REPEATED if label else _F.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _F.TYPE_MESSAGE, kind
            else:
                field.type = kind
    return file


# Enums are declared as int32: the same bytes, and a test may send a number that no enum has.
_FILES = (
    _file(
        "raftpb.proto",
        "raftpb",
        "proto2",
        (),
        {
            "Entry": {"Type": (1, _INT32), "Term": (2, _UINT64), "Index": (3, _UINT64), "Data": (4, _BYTES)},
            "ConfState": {
                "voters": (1, _UINT64, "repeated"),
                "learners": (2, _UINT64, "repeated"),
                "voters_outgoing": (3, _UINT64, "repeated"),
                "learners_next": (4, _UINT64, "repeated"),
                "auto_leave": (5, _BOOL),
            },
            "SnapshotMetadata": {"conf_state": (1, ".raftpb.ConfState"), "index": (2, _UINT64), "term": (3, _UINT64)},
            "Snapshot": {"data": (1, _BYTES), "metadata": (2, ".raftpb.SnapshotMetadata")},
            "Message": {
                "type": (1, _INT32),
                "to": (2, _UINT64),
                "from": (3, _UINT64),
                "term": (4, _UINT64),
                "logTerm": (5, _UINT64),
                "index": (6, _UINT64),
                "entries": (7, ".raftpb.Entry", "repeated"),
                "commit": (8, _UINT64),
                "snapshot": (9, ".raftpb.Snapshot"),
                "reject": (10, _BOOL),
                "rejectHint": (11, _UINT64),
                "context": (12, _BYTES),
            },
        },
    ),
    _file("config.proto", "config", "proto3", (), {"TestEpoch": {"process_nanos": (1, _INT64), "bench_iter": (2, _INT32)}}),
    _file(
        "transport.proto",
        "transportpb",
        "proto3",
        ("raftpb.proto", "config.proto"),
        {"RaftMsg": {"epoch": (1, ".config.TestEpoch"), "msgs": (2, ".raftpb.Message", "repeated")}},
    ),
)

_pool = descriptor_pool.DescriptorPool()
for _each in _FILES:
    _pool.Add(_each)

RaftMsg: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("transportpb.RaftMsg"))
RaftMessage: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("raftpb.Message"))
