"""Actions and blobs of gRPC's clients, with a bucket: what one node stores, another answers."""

import os
from pathlib import Path

from cache_actors.grpc.messages_pb2 import ActionResult, OutputFile
from tests.grpc.client import GrpcConnection, blob_name, digest_of
from tests.support.s3 import S3Server
from tests.support.service import Service, running_service
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually


def test_action_comes_from_the_bucket_with_its_blobs(
    s3_server: S3Server, shared_tuist: HeldTuist, tmp_path: Path
) -> None:
    shared_tuist.tokens["token"] = ["acme/app"]
    small, large, alone = os.urandom(100), os.urandom(1 << 20), os.urandom(100)
    files = [
        OutputFile(path=str(len(data)), digest=digest_of(data)) for data in (small, large, b"")
    ]
    action, result = digest_of(os.urandom(10)), ActionResult(output_files=files)
    with s3_server.new_bucket() as bucket:
        one = Service(tmp_path / "one", shared_tuist.url, bucket.settings(None))
        with running_service(one), GrpcConnection(one.port) as client:
            assert client.update(small, large, alone) == [0, 0, 0]
            assert client.put_action(action, result).status == 0
            eventually(lambda: len([name for name in bucket.names() if "/acme/app/" in name]) == 4)
        other = Service(tmp_path / "other", shared_tuist.url, bucket.settings(None))
        with running_service(other), GrpcConnection(other.port) as client:
            eventually(lambda: client.get_action(action).status == 0)
            assert client.get_action(action).one(ActionResult) == result
            stored = [each.name for each in other.storage.glob("acme/app/blob/*/*")]
            assert sorted(stored) == sorted(digest_of(data).hash for data in (small, large))
            assert client.read(blob_name(large)) == (0, large)
            assert client.read_batch(digest_of(alone)) == [(0, alone)]
