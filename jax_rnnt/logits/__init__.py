"""Sources: where the logits of a lattice's nodes are, and how the entries of its arcs are taken from there."""
