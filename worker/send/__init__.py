"""The send role: deliveries to the destinations."""
