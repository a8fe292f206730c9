"""A small world with known truth: a grammar of dialogues and a transparent judge."""
