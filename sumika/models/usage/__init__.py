"""What was used: one row for every request, kept in a journal until it is in the table, then counted by month."""
