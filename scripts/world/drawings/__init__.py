"""The draw functions: how each kind of thing looks, from the ground (y = 0) to its top (y = 1)."""
