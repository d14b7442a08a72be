"""One answer for a study, of the answers for its series."""
