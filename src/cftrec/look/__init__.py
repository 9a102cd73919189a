"""Look: what a Dataset holds, as lines for a terminal and as one page, with samples as a model will see them."""
