"""One answer for a study, from the answers for its series."""
