"""Scripts that each measure one thing and print one table."""
