"""Encode once into the cache, then the loop: optimizer, schedule, checkpoints, cost."""
