"""Causal language models: from nothing, from a folder or a hub; and text from them."""
