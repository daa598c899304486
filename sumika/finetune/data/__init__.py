"""Data in: files read strictly, rows checked, counted and rendered, and the report of it all."""
