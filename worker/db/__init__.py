"""The database: every query of the worker (the audit trail's are in worker.audit). A module per table or question."""
