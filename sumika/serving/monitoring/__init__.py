"""What Prometheus is told beside what each worker counts as it happens."""
