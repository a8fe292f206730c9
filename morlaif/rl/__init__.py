"""Proximal policy optimisation for language models: read `trainer.py` first, then the pages that it calls."""
