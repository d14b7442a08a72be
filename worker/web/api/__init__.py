"""The REST API below /api/v1, a module per resource."""
