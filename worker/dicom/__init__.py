"""What the DICOM standard fixes, and headers: UIDs, codes, statuses; never pixels."""
