"""How a candidate does beside its base and the version in service, and whether it may serve."""
