"""The worklist: studies that match a search, a page of them, and their numbers by status."""
