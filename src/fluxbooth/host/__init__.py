"""The machine all rooms stand on: folders, files, memory, page cache, downloads."""
