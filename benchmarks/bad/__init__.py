"""Bad inputs as data: one file a kind, each with a list `CASES`."""
