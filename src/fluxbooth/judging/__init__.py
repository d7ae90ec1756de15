"""What came of a run: scores, and a page of pictures."""
