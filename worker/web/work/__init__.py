"""What an operator begins and what goes on after the answer."""
