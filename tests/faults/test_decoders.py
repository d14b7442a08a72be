"""The short form of the row "decoder-deaths" of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import decoders


@pytest.mark.timeout(900)
def test_damaged_pixels_end_in_an_answer_and_the_next_image_is_decoded(tmp_path: Path) -> None:
    outcome = decoders.decoder_deaths(tmp_path, 60)
    assert outcome.notes == []
    assert outcome.tries == outcome.survived == 60 * len(decoders.SYNTAXES)
