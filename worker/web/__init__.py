"""The web role: REST API, DICOMweb, pages, health and metrics."""
