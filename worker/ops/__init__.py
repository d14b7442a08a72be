"""What an operator runs beside the service: doctor, backup and restore, classify, push, exports."""
