"""The other contents of an instance: earlier versions, which a correction replaced, and conflicts."""
