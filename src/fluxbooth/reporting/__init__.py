"""What came of a run, on one page for the browser."""
