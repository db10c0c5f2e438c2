"""Who must show a certificate."""

from google.protobuf import descriptor_pb2

from hivemind.master.tls import WORKER_METHODS
from tests.house.test_public_fields import DESCRIPTORS


def test_what_takes_a_workers_certificate_is_there_to_be_called() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    known = set()
    for file in files.file:
        for service in file.service:
            prefix = f"/{file.package}.{service.name}/"
            known |= {prefix, *(prefix + method.name for method in service.method)}
    assert known >= WORKER_METHODS
