"""A small drawn world: surroundings, kinds of things, their attributes and relations, with captions in words.

`scene.py` says what is in a picture, `draw.py` draws it, `captions.py` says it in words. To add a kind of thing, write
one draw function in `drawings/` and one entry in the table of `kinds.py`.
"""
