"""Stands in for ComfyUI where it cannot be had: its command line, two of its pages, its requirements in small.

It proves the container around ComfyUI (image, mounts, user, network, health, stop) and nothing about ComfyUI itself.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

# Not named: torch, which the base image must bring; torchsde, which must survive the filter of the requirements;
# requests, which Dockerfile.inference adds.
NEEDED = ("torch", "torchsde", "requests")


class Pages(BaseHTTPRequestHandler):
    """`/system_stats`, and `/models/FOLDER` with the names of the files below models/FOLDER."""

    def do_GET(self) -> None:
        if self.path == "/system_stats":
            self.answer({"system": {"argv": sys.argv}, "devices": []})
        elif self.path.startswith("/models/"):
            folder = Path("models") / Path(self.path).name
            self.answer(sorted(path.name for path in folder.iterdir()))
        else:
            self.send_error(404)

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188)
    for name in ("user-directory", "output-directory", "input-directory", "temp-directory", "database-url"):
        parser.add_argument(f"--{name}")
    for name in ("cpu", "disable-api-nodes", "disable-auto-launch", "quick-test-for-ci"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    for name in NEEDED:
        import_module(name)
    if not options.quick_test_for_ci:
        HTTPServer((options.listen, options.port), Pages).serve_forever()


if __name__ == "__main__":
    main()
