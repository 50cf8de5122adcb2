"""Sources: the forms that logits may have, and how each form gives the entries of the arcs."""
