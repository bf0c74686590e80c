"""A history in files and tables, and its numbers sent on while a training runs."""
