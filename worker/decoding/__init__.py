"""Decoder processes: pixels of stored files for the web role, which never decodes any itself."""
