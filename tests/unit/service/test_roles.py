from __future__ import annotations

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.process import ProcessRole
from worker.service.roles import _children


def test_a_worker_without_destinations_sends_nothing_but_queries_its_peers() -> None:
    peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=104, query=True)
    for peers, expected in (((), False), ((peer,), True), ((peer.model_copy(update={"query": False}),), False)):
        roles = [child.role for child in _children(Settings(peer=peers), None)]
        assert (ProcessRole.SEND in roles) is expected
