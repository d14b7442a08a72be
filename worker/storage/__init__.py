"""Store an instance durably: its file on disk and its row, and, by the retention policy, their end."""
