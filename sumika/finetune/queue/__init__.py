"""The worker that takes jobs from the queue, one for each GPU."""
