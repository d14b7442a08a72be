"""Heads to send: DICOM series built from the MNI T1 template that the nilearn wheel carries.

What a scanner would send, without a person behind it: 16-bit MR slices with noise and a receive-coil bias field,
with or without a simulated ring-enhancing mass. The template has no skull; `head_volume` wraps CSF, bone and scalp
around it. Every call makes a new study and series; the pixels depend on `seed` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from scipy import ndimage

from tests.testbed import dcmtk
from tests.testbed.made_once import once

Volume = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]

# Direction cosines of rows and columns in patient space (PS3.3 C.7.6.2.1.1).
PLANES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}
HEAD_CENTRE_MM = np.array([0.0, 17.0, 5.0])  # of the template, in patient coordinates (LPS)
MASS_CENTRE_MM = np.array([-30.0, 30.0, 28.0])
MASS_RADIUS_MM = 20.0

CLEAN_PATIENT: Attributes = {
    "PatientName": "Phantom^Template",
    "PatientID": "PHANTOM-1",
    "PatientBirthDate": "19700101",
    "PatientSex": "O",
    "PatientAge": "055Y",
    "AccessionNumber": "A0001",
}
# What archives hold in earnest: an age without its unit, prose where the standard wants a code, values too long.
MALFORMED_PATIENT: Attributes = {
    "PatientName": "Jane_Doe",
    "PatientID": " 02/" + "7" * 70,
    "PatientBirthDate": "1966-01-01",
    "PatientSex": "female",
    "PatientAge": "42",
    "PatientWeight": "75 kg",
    "AccessionNumber": "ACCESSION-NUMBER-TOO-LONG-FOR-SH",
    "StudyTime": "14:15",
    "StudyID": "a study id of more than sixteen",
}


@dataclass(frozen=True)
class Grid:
    """Where the slices lie: `slices` of rows x columns, in mm, centred on the head."""

    slices: int = 24
    rows: int = 256
    columns: int = 256
    pixel_mm: float = 0.9375
    slice_mm: float = 6.0
    plane: str = "axial"

    def directions(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Unit vectors along a row, along a column and from slice to slice, in patient coordinates."""
        row, column = (np.array(cosines, dtype=np.float64) for cosines in PLANES[self.plane])
        return row, column, np.cross(row, column)

    def position(self, index: float) -> npt.NDArray[np.float64]:
        """Image Position (Patient) of the slice: the centre of its first pixel."""
        row, column, normal = self.directions()
        corner = row * (self.columns - 1) + column * (self.rows - 1)
        along = (index - (self.slices - 1) / 2) * self.slice_mm
        return HEAD_CENTRE_MM + along * normal - corner * self.pixel_mm / 2


@cache
def head_volume(mass: bool, flair: bool = False) -> Volume:
    """The head on the template's 1 mm grid [197, 233, 189], white matter about 1.

    The template is a brain, T1-weighted; 3 mm of CSF, 5 mm of bone and 5 mm of scalp are simulated around it. As
    `flair`, its grey levels are those of that sequence: CSF dark, grey matter brighter than white; a mass is bright.
    """
    from nilearn.datasets import load_mni152_template  # seconds to import: only where a head is needed

    brain = np.asarray(load_mni152_template(resolution=1).get_fdata(), dtype=np.float32)
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(brain > 0.1, iterations=3))
    outside_mm = ndimage.distance_transform_edt(~inside)
    shells = np.select([outside_mm <= 3, outside_mm <= 8, outside_mm <= 13], [0.22, 0.06, 0.85], 0.0)
    if flair:
        brain = np.interp(brain, (0.0, 0.3, 0.6, 0.85, 1.1), (0.05, 0.15, 1.0, 0.75, 0.7)).astype(np.float32)
        shells = shells * np.where(outside_mm <= 3, 0.5, 1.0)
    head = np.where(inside, brain, shells).astype(np.float32)
    return _with_mass(head, inside, flair) if mass else head


def _with_mass(head: Volume, inside: npt.NDArray[np.bool_], flair: bool) -> Volume:
    """A mass with an irregular rim in oedema that fades into the brain: ring-enhancing, or bright throughout."""
    # Patient coordinates (LPS) → voxels of the template, whose axes are R-A-S with the origin at (-98, -134, -72).
    centre = np.array([98.0, 134.0, 72.0]) + MASS_CENTRE_MM * (-1, -1, 1)
    axes = [np.arange(n, dtype=np.float32) - c for n, c in zip(head.shape, centre, strict=True)]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2] ** 2)
    random = np.random.default_rng(17)
    bumps = ndimage.zoom(
        random.normal(size=(20, 24, 19)), [n / m for n, m in zip(head.shape, (20, 24, 19), strict=True)], order=1
    )
    distance = distance + 3.0 * bumps.astype(np.float32)
    oedema = np.clip((MASS_RADIUS_MM + 14 - distance) / 8, 0, 1)
    if flair:
        bright = np.maximum(head, 1.45 * oedema + head * (1 - oedema))
        return np.where(inside, np.where(distance <= MASS_RADIUS_MM - 6, 1.25, bright), head).astype(np.float32)
    marked = head * (1 - 0.35 * oedema)
    marked = np.where(distance <= MASS_RADIUS_MM, 1.25, marked)
    marked = np.where(distance <= MASS_RADIUS_MM - 4, 0.25, marked)
    return np.where(inside, marked, head).astype(np.float32)


def slice_pixels(grid: Grid, *, mass: bool = False, seed: int = 1, flair: bool = False) -> npt.NDArray[np.uint16]:
    """Slices [n, rows, columns] as 12-bit magnitudes: partial volume, bias field and Rician noise included.

    They are drawn once for all processes of a run of the tests: seconds of processor time.
    """

    def stacked() -> npt.NDArray[np.uint16]:
        return np.stack(list(_drawn(grid, mass, seed, flair)))

    name = "-".join(map(str, ("phantom", *astuple(grid), mass, seed, flair)))
    path = once(f"{name}.npy", lambda path: np.save(path, stacked()))
    return stacked() if path is None else np.load(path, mmap_mode="r")


def _drawn(grid: Grid, mass: bool, seed: int, flair: bool) -> Iterator[npt.NDArray[np.uint16]]:
    head = head_volume(mass, flair)
    row, column, normal = grid.directions()
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(-1, 1, grid.columns), np.linspace(-1, 1, grid.rows))
    in_plane = (
        down[..., None] * column * grid.rows + across[..., None] * row * grid.columns
    ) * grid.pixel_mm / 2 + HEAD_CENTRE_MM
    depths = (-1 / 3, 0, 1 / 3) if grid.slice_mm >= 2 else (0,)  # a thick slice averages what it crosses
    for index in range(grid.slices):
        signal = np.zeros((grid.rows, grid.columns), dtype=np.float32)
        for depth in depths:
            along = (index + depth - (grid.slices - 1) / 2) * grid.slice_mm
            lps = in_plane + along * normal
            voxels = (98 - lps[..., 0], 134 - lps[..., 1], 72 + lps[..., 2])
            signal += ndimage.map_coordinates(head, voxels, order=1, prefilter=False) / len(depths)
        signal *= 900 * (1 + 0.12 * across - 0.10 * down**2)
        noise = random.normal(scale=14, size=(2, *signal.shape))
        yield np.clip(np.hypot(signal + noise[0], noise[1]), 0, 4095).astype(np.uint16)


def head_series(
    folder: Path,
    *,
    mass: bool = False,
    grid: Grid | None = None,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    attributes: Attributes | None = None,
    seed: int = 1,
    flair: bool = False,
) -> list[Path]:
    """Write an MR series, a file a slice; `attributes` override (None removes) what every file carries.

    It is T1 with a contrast agent, or `flair`.
    """
    grid = grid or Grid()
    common = common_attributes(MRImageStorage) | _MR | (_FLAIR if flair else {})
    paths = []
    for index, pixels in enumerate(slice_pixels(grid, mass=mass, seed=seed, flair=flair)):
        ds = dataset({**common, **_geometry(grid, index), **(attributes or {})})
        set_pixels(ds, pixels, bits_stored=12)
        paths.append(write(ds, folder / f"IM{index + 1:04d}.dcm"))
    return [compress(path, transfer_syntax) for path in paths]


def localizer(folder: Path, *, attributes: Attributes | None = None) -> list[Path]:
    """The scout a technician plans on: three slices in three planes, ImageType LOCALIZER."""
    own = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesDescription": "Localizer", **(attributes or {})}
    own = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), **own}
    paths = []
    for number, plane in enumerate(PLANES, start=1):
        grid = Grid(slices=1, plane=plane, slice_mm=10)
        paths += head_series(folder / plane, grid=grid, attributes=own | {"InstanceNumber": number})
    return paths


def knee_series(folder: Path, *, slices: int = 20) -> list[Path]:
    """A knee, sagittal: femur and tibia bright with dark cortex and a joint between, muscle and fat around them."""
    size, random = 256, np.random.default_rng(5)
    grid = Grid(slices=slices, rows=size, columns=size, pixel_mm=0.6, slice_mm=4, plane="sagittal")
    description = {"SeriesDescription": "SAG T1", "StudyDescription": "Knee"}
    down, across = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    signals = []
    for index in range(slices):
        wide = 0.35 + 0.12 * np.sin(np.pi * index / slices)
        bent = across - 0.1 * down
        image = np.select([np.abs(bent) < 0.66, np.abs(bent) < 0.8], [0.35, 0.9], 0.0)
        for bone in (down < -0.1, down > 0.02):
            near = np.clip(1 - 2.2 * np.minimum(np.abs(down + 0.1), np.abs(down - 0.02)), 0, 1)
            edge = np.abs(bent) - wide * (0.75 + 0.5 * near)
            image = np.where(bone & (edge < 0), 0.8, np.where(bone & (edge < 0.03), 0.05, image))
        image = np.where((np.abs(down + 0.04) < 0.06) & (np.abs(bent) < 0.6), 0.5, image)
        signal = 900 * ndimage.gaussian_filter(image, 1.2) * (1 + 0.05 * random.normal(size=image.shape))
        signals.append(signal)
    return _write_series(folder, grid, description, signals)


def quality_series(folder: Path, *, slices: int = 20) -> list[Path]:
    """A phantom for quality assurance: a bright cylinder with rows of holes and a wedge."""
    size, random = 256, np.random.default_rng(6)
    grid = Grid(slices=slices, rows=size, columns=size, pixel_mm=0.9, slice_mm=5)
    description = {"SeriesDescription": "T1 axial", "StudyDescription": "QA"}
    down, across = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    signals = []
    for index in range(slices):
        image = np.where(np.hypot(down, across) < 0.8, 0.8, 0.0)
        holes = (np.hypot((across * 8) % 1 - 0.5, (down * 8) % 1 - 0.5) < 0.2) & (np.abs(down) < 0.35)
        image = np.where(holes & (np.abs(across) < 0.5), 0.05, image)
        wedge = (down > 0.45) & (down < 0.6) & (np.abs(across) < 0.05 + 0.4 * index / slices)
        signal = 1000 * np.where(wedge, 0.1, image) + random.normal(scale=12, size=image.shape)
        signals.append(signal)
    return _write_series(folder, grid, description, signals)


def _write_series(folder: Path, grid: Grid, description: Attributes, signals: Sequence[npt.NDArray[Any]]) -> list[Path]:
    """Write a series of T1-weighted slices without a contrast agent, of an unnamed body part."""
    without = {"ContrastBolusAgent": None, "BodyPartExamined": ""}
    common = common_attributes(MRImageStorage) | _MR | without | dict(description)
    paths = []
    for index, signal in enumerate(signals):
        ds = dataset({**common, **_geometry(grid, index)})
        set_pixels(ds, np.clip(signal, 0, 4095).astype(np.uint16), bits_stored=12)
        paths.append(write(ds, folder / f"IM{index + 1:04d}.dcm"))
    return paths


def epi_series(folder: Path, *, slices: int = 30) -> list[Path]:
    """What a GE functional series looks like to software: 64 x 64, signed 16 bit, ImageType EPI."""
    return head_series(
        folder,
        grid=Grid(slices=slices, rows=64, columns=64, pixel_mm=3.75, slice_mm=5),
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "EPI", "NONE"],
            "Manufacturer": "GE MEDICAL SYSTEMS",
            "SeriesDescription": "Axial EPI-FMRI (Interleaved I to S)",
            "ScanningSequence": ["EP", "GR"],
            "SequenceVariant": "SS",
            "ScanOptions": ["EPI_GEMS", "PFF"],
            "EchoTime": "30",
            "RepetitionTime": "5000",
            "PixelRepresentation": 1,
        },
    )


def mosaic_series(folder: Path, *, tiles: int = 6) -> list[Path]:
    """A Siemens mosaic: every slice of a volume as a tile of one picture, ImageType MOSAIC, two time points."""
    size = 72
    grid = Grid(slices=tiles * tiles, rows=size, columns=size, pixel_mm=3, slice_mm=4)
    common = common_attributes(MRImageStorage) | _MR
    common |= {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "ECHO_00", "MOSAIC"],
        "Manufacturer": "SIEMENS",
        "SeriesDescription": "EPI PE=AP",
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "SequenceName": "epfid2d1_72",
    }
    paths = []
    for index in range(2):
        tiled = slice_pixels(grid, seed=index).reshape(tiles, tiles, size, size)
        ds = dataset(common | _geometry(grid, 0) | {"InstanceNumber": index + 1, "SOPInstanceUID": generate_uid()})
        set_pixels(ds, tiled.transpose(0, 2, 1, 3).reshape(tiles * size, tiles * size), bits_stored=12)
        paths.append(write(ds, folder / f"mosaic{index + 1}.dcm"))
    return paths


def colour_series(folder: Path, *, mass: bool = False, slices: int = 24) -> list[Path]:
    """The same head as RGB Secondary Capture, as converted teaching files are: no geometry, Modality MR."""
    common = common_attributes(SecondaryCaptureImageStorage) | {
        "ConversionType": "WSD",
        "ImageType": ["DERIVED", "SECONDARY"],
    }
    paths = []
    for index, pixels in enumerate(slice_pixels(Grid(slices=slices), mass=mass)):
        own = {"SOPInstanceUID": generate_uid(), "InstanceNumber": index + 1, "PatientOrientation": ["L", "P"]}
        ds = dataset(common | own)
        grey = np.clip(pixels / 1200 * 255, 0, 255).astype(np.uint8)
        set_pixels(ds, np.repeat(grey[..., None], 3, axis=2), bits_stored=8)
        paths.append(write(ds, folder / f"SC{index + 1:04d}.dcm"))
    return paths


def compress(path: Path, transfer_syntax: UID) -> Path:
    """Re-encode the file in place, lossless: by DCMTK what it alone can write, by pydicom the rest."""
    if transfer_syntax in _DCMTK_ENCODERS:
        program, *options = _DCMTK_ENCODERS[transfer_syntax]
        dcmtk.run(program, *options, path, path)
    elif transfer_syntax != ExplicitVRLittleEndian:
        ds = dcmread(path)
        ds.compress(transfer_syntax, generate_instance_uid=False)
        ds.save_as(path)
    return path


_DCMTK_ENCODERS: dict[str, tuple[str, ...]] = {
    JPEGLosslessSV1: ("dcmcjpeg", "+e1"),
    ImplicitVRLittleEndian: ("dcmconv", "+ti"),
    ExplicitVRBigEndian: ("dcmconv", "+tb"),
    DeflatedExplicitVRLittleEndian: ("dcmconv", "+td"),
}

_MR: dict[str, Any] = {
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
    "ScanningSequence": "SE",
    "SequenceVariant": "SK",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "EchoTime": "10",
    "RepetitionTime": "550",
    "EchoTrainLength": "1",
    "MagneticFieldStrength": "1.5",
    "ContrastBolusAgent": "gadolinium",
    "SeriesDescription": "T1 axial post contrast",
    "RescaleIntercept": "0",
    "RescaleSlope": "1",
    "RescaleType": "US",
}

_FLAIR: dict[str, Any] = {
    "ScanningSequence": ["SE", "IR"],
    "EchoTime": "120",
    "RepetitionTime": "9000",
    "InversionTime": "2500",
    "EchoTrainLength": "16",
    "ContrastBolusAgent": None,
    "SeriesDescription": "T2 FLAIR axial",
    "SeriesNumber": "4",
}


def common_attributes(sop_class_uid: str) -> dict[str, Any]:
    """What every instance of one new series shares."""
    return {
        "SOPClassUID": sop_class_uid,
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "PositionReferenceIndicator": "",
        "StudyDate": "20261121",
        "SeriesDate": "20261121",
        "AcquisitionDate": "20261121",
        "ContentDate": "20261121",
        "StudyTime": "080000",
        "SeriesTime": "080500",
        "AcquisitionTime": "080500",
        "ContentTime": "080500",
        "StudyID": "1",
        "SeriesNumber": "3",
        "AcquisitionNumber": "1",
        "Modality": "MR",
        "Manufacturer": "Phantom",
        "ManufacturerModelName": "MNI template",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "ReferringPhysicianName": "",
        "StudyDescription": "Brain",
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        **CLEAN_PATIENT,
    }


def _geometry(grid: Grid, index: int) -> dict[str, Any]:
    row, column, normal = grid.directions()
    position = grid.position(index)
    return {
        "SOPInstanceUID": generate_uid(),
        "InstanceNumber": index + 1,
        "ImageOrientationPatient": [decimal(cosine) for cosine in (*row, *column)],
        "ImagePositionPatient": [decimal(coordinate) for coordinate in position],
        "SliceLocation": decimal(float(position @ normal)),
        "PixelSpacing": [decimal(grid.pixel_mm)] * 2,
        "SliceThickness": decimal(grid.slice_mm),
        "SpacingBetweenSlices": decimal(grid.slice_mm),
    }


def decimal(number: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 6.2)."""
    return f"{number:.6g}"


def dataset(attributes: Attributes) -> Dataset:
    """Values go in as they are, malformed ones too; None leaves the attribute out."""
    ds = Dataset()
    with config.disable_value_validation():
        for keyword, value in attributes.items():
            if value is None:
                continue
            try:
                setattr(ds, keyword, value)
            except ValueError:  # a number that is none: only its bytes can be written
                tag = Tag(keyword)
                raw = str(value).encode().ljust(len(value) + len(value) % 2)
                ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
    return ds


def set_pixels(ds: Dataset, pixels: npt.NDArray[Any], *, bits_stored: int) -> None:
    """Pixels [..., rows, columns] or, 8-bit with a trailing 3, RGB."""
    colour = pixels.dtype == np.uint8
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = pixels.itemsize * 8
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    if "PixelRepresentation" not in ds:
        ds.PixelRepresentation = 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if colour else "OW"


def write(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with config.disable_value_validation():
        ds.save_as(path, enforce_file_format=True)
    return path
