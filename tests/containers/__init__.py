"""Tests of the Dockerfiles, the compose files and the scripts around them; most need a Docker engine."""
