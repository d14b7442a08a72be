"""JPEG Extended with 12-bit samples, decoded by GDCM: pydicom's own decoders for it are all GPL."""

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
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((ds.Columns, ds.Rows, 1))
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
        image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
        image.SetDataElement(element)
        # GDCM returns bytes as text.
        values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), "<u2")
        yield values.reshape(ds.Rows, ds.Columns)
