"""Fetch studies from a PACS: C-FIND for what it has, then C-MOVE or C-GET (PS3.4 C.4)."""
