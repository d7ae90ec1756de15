"""Captions for pictures that have none: a captioning model's words, with words of the user's around them."""
