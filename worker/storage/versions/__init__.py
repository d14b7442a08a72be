"""An instance that comes again: a repetition, a correction, or other content that waits for a decision."""
