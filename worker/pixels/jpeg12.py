"""JPEG Extended with 12-bit samples: pydicom has no decoder for it that is not GPL, though GDCM can."""

from __future__ import annotations

from collections.abc import Iterator

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import generate_frames


def jpeg12_frames(ds: Dataset) -> Iterator[npt.NDArray[np.uint16]]:
    """Each frame [rows, columns] of a monochrome image whose header has been checked; ValueError when it is damaged."""
    for stream in generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)):
        fragment = gdcm.Fragment()
        fragment.SetByteStringValue(stream)
        fragments = gdcm.SequenceOfFragments.New()
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
        element.SetValue(fragments.__ref__())
        picture = gdcm.Image()
        picture.SetNumberOfDimensions(2)
        picture.SetDimensions((ds.Columns, ds.Rows, 1))
        picture.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
        picture.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
        picture.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
        picture.SetDataElement(element)
        # GDCM hands over bytes as text.
        values = np.frombuffer(picture.GetBuffer().encode("utf-8", "surrogateescape"), "<u2")
        yield values.reshape(ds.Rows, ds.Columns)
