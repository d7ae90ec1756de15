"""What the user asked for: data.toml, recipe and overrides, read into typed and checked values."""
