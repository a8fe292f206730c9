"""Claims about methods as files: what is claimed, which runs test it, by which estimate and which test."""
