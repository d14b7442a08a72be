"""The receive role: the Storage SCP and the settling of series."""
