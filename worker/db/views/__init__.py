"""Read-only questions of pages, API and metrics."""
