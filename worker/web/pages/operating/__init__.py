"""Pages of operators: deliveries, tokens, the audit trail."""
