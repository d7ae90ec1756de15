"""Pictures for people: files that say what made them, and many side by side."""
