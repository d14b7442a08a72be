"""Pages of operators: deliveries, upload, fetch, tokens, the audit trail."""
