"""Prompts, demonstrations and human preference pairs: one record type, whatever the source."""
