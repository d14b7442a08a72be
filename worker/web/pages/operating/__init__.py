"""Pages of operators: deliveries, deletion of a study, upload, fetch, tokens, the audit trail."""
