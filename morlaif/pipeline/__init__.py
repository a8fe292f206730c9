"""Stages as units with digests, the store that keeps what they build, and the dispatcher that builds them."""
