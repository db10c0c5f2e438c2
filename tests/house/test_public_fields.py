"""Names, numbers and types of the public API are a contract: fields may be added, never changed."""

from pathlib import Path

from google.protobuf import descriptor_pb2

DESCRIPTORS = Path(__file__).resolve().parents[2] / "hivemind" / "_pb" / "descriptors.binpb"
PINNED = Path(__file__).with_name("public_fields.txt")


def public_fields() -> set[str]:
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    found = set()
    for file in files.file:
        if file.package not in {"nodepool", "taskworker"}:
            continue
        for message in file.message_type:
            for field in message.field:
                kind = field.type_name or descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
                label = descriptor_pb2.FieldDescriptorProto.Label.Name(field.label)
                found.add(
                    f"{file.package}.{message.name}.{field.name} = {field.number} {label} {kind}"
                )
        for enum in file.enum_type:
            found |= {f"{file.package}.{enum.name}.{one.name} = {one.number}" for one in enum.value}
        for service in file.service:
            found |= {
                f"/{file.package}.{service.name}/{method.name}"
                f" {method.input_type} {method.output_type}"
                for method in service.method
            }
    return found


def test_no_public_field_or_method_was_changed_or_taken_away() -> None:
    assert set(PINNED.read_text().splitlines()) - public_fields() == set()
