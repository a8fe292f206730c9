"""One self-contained page for a run: figures, tables, sample responses."""
