"""An action is stored though its blobs are in the bucket alone, as long as they come from there."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cache_actors.grpc.action_cache import update_action_result
from cache_actors.grpc.digests import BLOBS_AT_ONCE, blob_of
from cache_actors.grpc.messages_pb2 import ActionResult, OutputFile, UpdateActionResultRequest
from cache_actors.storage.actions import BlobReference, blobs_in
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.layout import Key
from cache_actors.storage.references import Target

from .client import digest_of
from .test_trees import FakeCall

FILES = [b"%d" % number for number in range(BLOBS_AT_ONCE + 10)]


class NodeCall(FakeCall):
    """A call to a node with the blobs `here`, which is next to a bucket with those `there`.

    Attributes:
        asked: the blobs that the bucket was asked for.
        stored: the content of actions that were stored.
    """

    def __init__(self, here: Iterable[bytes], there: Iterable[bytes]) -> None:
        super().__init__()
        self._here = {blob_of(digest_of(each)).id for each in here}
        self._there = {blob_of(digest_of(each)).id for each in there}
        self.asked: list[str] = []
        self.stored: list[bytes] = []
        self.owner = (self.project,)
        self.services = SimpleNamespace(reader=self, fetcher=self, keyvalue=self)

    async def missing(self, _project: str, blobs: Sequence[BlobReference]) -> list[int]:
        return [place for place, blob in enumerate(blobs) if blob.id not in self._here]

    async def pull_targets(self, _project: str, targets: Iterable[Target]) -> None:
        wanted = [each for target in targets for each in target.ids]
        self.asked += wanted
        self._here |= self._there.intersection(wanted)

    async def put_action(self, _key: Key, content: bytes, _owner: object) -> None:
        for blob in blobs_in(content):
            if blob.id not in self._here:
                raise MissingArtifact(blob.id)
        self.stored.append(content)


def update() -> UpdateActionResultRequest:
    files = [OutputFile(path="out", digest=digest_of(each)) for each in FILES]
    result = ActionResult(output_files=files)
    return UpdateActionResultRequest(action_digest=digest_of(b"action"), action_result=result)


async def test_action_is_stored_after_those_of_its_blobs_that_were_missing_have_come() -> None:
    call: Any = NodeCall(FILES[:5], FILES[5:])
    await update_action_result(call, update())
    assert len(call.stored) == 1
    assert sorted(call.asked) == sorted(blob_of(digest_of(each)).id for each in FILES[5:])


@pytest.mark.parametrize("has_bucket", [True, False])
async def test_action_is_refused_if_a_blob_is_nowhere(has_bucket: bool) -> None:
    call: Any = NodeCall(FILES[:5], FILES[5:-1])
    if not has_bucket:
        call.services.fetcher = None
    with pytest.raises(MissingArtifact):
        await update_action_result(call, update())
    assert call.stored == []
    assert bool(call.asked) == has_bucket


async def test_action_whose_blobs_are_here_asks_the_bucket_for_nothing() -> None:
    call: Any = NodeCall(FILES, [])
    await update_action_result(call, update())
    assert call.asked == []
