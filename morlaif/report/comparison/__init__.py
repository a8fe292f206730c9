"""One page for several runs: the paper's figures, from any sweep, each as a drawing to read off and as a PNG."""
