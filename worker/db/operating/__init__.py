"""What operators do with the service: stages that they suspend, studies that they delete, notices that they get."""
