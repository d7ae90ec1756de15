"""Settings of other trainers, turned into a data.toml and a recipe."""
