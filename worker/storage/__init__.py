"""From one received instance to a file on disk and its row, and back: acceptance, storing, retention."""
