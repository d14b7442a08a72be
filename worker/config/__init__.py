"""The configuration file as frozen, validated settings."""
