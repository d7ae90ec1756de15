"""What came of a run: pictures side by side."""
