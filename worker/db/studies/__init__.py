"""Rows of studies: opened by the answers for their series, claimed, answered."""
