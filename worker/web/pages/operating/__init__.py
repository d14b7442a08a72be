"""Pages of operators: deliveries, deletion of a study, upload, fetch, tags of an image, tokens, the audit trail."""
