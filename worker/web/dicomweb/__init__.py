"""DICOMweb (PS3.18): QIDO-RS, WADO-RS and, where it is allowed, STOW-RS below /dicom-web."""
