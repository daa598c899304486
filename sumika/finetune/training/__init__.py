"""A run's training: TRL's trainers set up, stopped, saved and resumed; no loop of our own."""
