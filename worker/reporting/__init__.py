"""The DICOM and FHIR objects made of a result: SR, Secondary Capture, key objects."""
