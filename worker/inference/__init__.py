"""From the files of a series to a classification; pure: no session, no socket."""
