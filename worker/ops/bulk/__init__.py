"""`worker classify` of an archive on a Dask cluster: one series is one task; a later run does what the output lacks."""
