"""The audit trail: events, their messages (PS3.15 A.5), the chained files, and their syslog copy."""
