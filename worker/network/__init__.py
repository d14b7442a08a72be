"""DICOM over the network (PS3.8) by pynetdicom: calling an application entity, and our patches."""
