"""From DICOM files to pixel values and their geometry."""
