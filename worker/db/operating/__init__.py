"""What operators do with the service: stages that they suspend."""
