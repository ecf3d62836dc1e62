"""The checks, by subject. Each is a function of a Lab; runner.py finds them here."""
