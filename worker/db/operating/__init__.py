"""What operators do with the service: stages they suspend, studies they delete, notices they get, clocks they set."""
