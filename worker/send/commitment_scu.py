"""Storage commitment as SCU (PS3.4 Annex J): the request, and a report that arrives on the same association."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pydicom import Dataset
from pynetdicom import evt

from worker.dicom import commitment, standard
from worker.errors import Retry
from worker.send.destinations.c_store import CStoreDestination
from worker.send.storage_scu import associate_for_results

HOLD_FOR_REPORT_SECONDS = 2.0


def request_commitment(
    destination: CStoreDestination,
    ae_title: str,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    on_report: Callable[[Dataset], int],
) -> None:
    """N-ACTION for (SOP class, SOP instance) pairs. Raises Retry when the peer does not take the request.

    The report comes as N-EVENT-REPORT: on this association while it is held, or later on a new association to our SCP.
    """
    reported = threading.Event()

    def on_event(event: evt.Event) -> tuple[int, None]:
        status = on_report(event.event_information)
        reported.set()
        return status, None

    assoc = associate_for_results(destination, ae_title, [(evt.EVT_N_EVENT_REPORT, on_event)])
    try:
        answer, _ = assoc.send_n_action(
            commitment.build_request(transaction_uid, instances),
            commitment.REQUEST_ACTION,
            commitment.SOP_CLASS,
            commitment.SOP_INSTANCE,
        )
        if "Status" in answer and answer.Status == standard.SUCCESS:
            reported.wait(HOLD_FOR_REPORT_SECONDS)
    except (RuntimeError, ValueError):  # the association has ended; the peer does not offer the service
        raise Retry("commitment-not-requested", "the peer does not take storage commitment requests") from None
    finally:
        if assoc.is_established:
            assoc.release()
