"""The service: its roles' processes, their supervisor, clock, heartbeat and scheduled ticks."""
