"""Does the installed wheel work beside this protobuf and grpcio, with torch absent?

Run by scripts/compat.sh in environments that hold nothing but the SDK's base dependencies without
torch, so it is a plain script and no pytest module. It imports every module under `weightsync`,
sends one filled message of each type through bytes and back, calls every RPC over a real channel,
and imports `sync_client`. Prints one line and exits 0, or ends with the traceback of what failed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from concurrent import futures
from types import ModuleType

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message

import weightsync.v1

CALL_TIMEOUT = 10.0  # seconds
SAMPLES: dict[int, object] = {
    FieldDescriptor.CPPTYPE_INT32: 7,
    FieldDescriptor.CPPTYPE_INT64: 2**40,
    FieldDescriptor.CPPTYPE_UINT32: 7,
    FieldDescriptor.CPPTYPE_UINT64: 2**40,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    FieldDescriptor.CPPTYPE_FLOAT: 0.5,
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_ENUM: 1,
}


def import_all(package: ModuleType) -> list[ModuleType]:
    """Imports every module under `package` and returns them with it."""
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    return [package, *(importlib.import_module(module.name) for module in found)]


def sample(field: FieldDescriptor) -> object:
    """A value other than the default for a scalar field."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES else "größe"
    return SAMPLES[field.cpp_type]


def filled(descriptor: Descriptor, depth: int = 3) -> Message:
    """A message with every field set, nested ones to `depth`; of a oneof, the last stays."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        target = getattr(message, field.name)
        if field.message_type is None:
            if hasattr(target, "append"):
                target.append(sample(field))
            else:
                setattr(message, field.name, sample(field))
        elif field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            if value.message_type is None:
                target[sample(key)] = sample(value)
            else:
                target[sample(key)].CopyFrom(filled(value.message_type, depth - 1))
        elif depth > 0:
            nested = filled(field.message_type, depth - 1)
            if hasattr(target, "append"):
                target.append(nested)
            else:
                target.CopyFrom(nested)
    return message


def check_messages(module: ModuleType) -> int:
    """Round-trips one message of each type that the module defines; returns how many."""
    descriptors = list(module.DESCRIPTOR.message_types_by_name.values())
    for descriptor in descriptors:
        message = filled(descriptor)
        data = message.SerializeToString()
        copy = type(message).FromString(data)
        assert copy == message, f"{descriptor.full_name} does not survive its own bytes"
        assert bool(data) == bool(descriptor.fields), f"{descriptor.full_name} lost its fields"
    return len(descriptors)


def check_calls(service: ServiceDescriptor, code: ModuleType, address: str) -> int:
    """Calls each RPC; the generated base class answers UNIMPLEMENTED, in its own words."""
    with grpc.insecure_channel(address) as channel:
        stub = getattr(code, f"{service.name}Stub")(channel)
        for method in service.methods:
            request = filled(method.input_type)
            argument = iter([request]) if method.client_streaming else request
            call = getattr(stub, method.name)
            error = None
            try:
                reply = call(argument, timeout=CALL_TIMEOUT)
                if method.server_streaming:
                    next(reply)
            except grpc.RpcError as raised:
                error = raised
            assert error is not None, f"{method.full_name} answered without a servicer"
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error
            assert error.details() == "Method not implemented!", error
    return len(service.methods)


def main() -> None:
    # weightsync.v1 holds only generated files, so it has no __init__.py for walk_packages to see.
    imported = [*import_all(weightsync), *import_all(weightsync.v1)]
    modules = {module.__name__: module for module in imported}
    generated = [m for name, m in modules.items() if name.endswith("_pb2")]
    assert generated, "the wheel holds no generated modules"
    messages = sum(check_messages(module) for module in generated)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    services = [
        (service, modules[f"{module.__name__}_grpc"])
        for module in generated
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    for service, code in services:
        servicer = getattr(code, f"{service.name}Servicer")()
        getattr(code, f"add_{service.name}Servicer_to_server")(servicer, server)
    server.start()
    calls = sum(check_calls(service, code, address) for service, code in services)
    server.stop(grace=None).wait()

    assert importlib.util.find_spec("torch") is None, "torch is installed: this proves nothing"
    client = importlib.import_module("sync_client").__name__

    installed = " ".join(f"{n} {importlib.metadata.version(n)}" for n in ("protobuf", "grpcio"))
    print(
        f"compat: {installed} on Python {sys.version.split()[0]}: {len(modules)} modules, "
        f"{messages} messages, {calls} RPCs, {client}: work without torch"
    )


if __name__ == "__main__":
    main()
