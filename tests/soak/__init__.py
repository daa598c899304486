"""Half an hour of everything at once."""
