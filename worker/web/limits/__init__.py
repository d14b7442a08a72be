"""What a request, a caller and an address may cost."""
