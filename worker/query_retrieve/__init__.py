"""The Query/Retrieve SCP (C-FIND, C-MOVE, C-GET), on the port of the receive role."""
