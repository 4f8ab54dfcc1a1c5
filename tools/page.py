"""Put the page together in `page/dist`, and serve it on this machine: `python -m tools.page`.

Needs Node.js with npm for its libraries. Anything that serves files can serve `page/dist`.
"""

from __future__ import annotations

import argparse
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.images import write_png
from lungseg_utils.phantom.film import render_phantom

PAGE = Path(__file__).resolve().parent.parent / "page"
BUILT = PAGE / "dist"
_SEEDS = (3, 8, 1)
_SIZE = 896, 1024


def build() -> Path:
    """Fetch the libraries, draw the films to try, and copy all into `page/dist`.

    Raises:
        LungsegError: npm is not installed, or failed.
    """
    if not shutil.which("npm"):
        advice = "Install Node.js 20 or later, such as Debian's packages nodejs and npm."
        raise LungsegError("The page is built by npm.", "no command npm", advice)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(_SEEDS, start=1):
            image, _ = render_phantom(np.random.default_rng(seed), _SIZE)
            write_png(Path(folder) / f"drawn_{number}.png", image)
        commands = ["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build", "--", folder]
        for command in commands:
            done = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stdout + done.stderr)[-2000:]
                raise LungsegError("The page is built by npm.", said, "Mend what npm names.")
    return BUILT


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: object) -> None:
        """Say nothing: each visit asks for thirty files."""


def serve(folder: Path = BUILT, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Serve a folder on this machine alone, in a thread of its own.

    Args:
        folder: Its files.
        port: 0 for any that is free.

    Returns:
        The server; `shutdown()` ends it.
    """
    handler = partial(_Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> int:
    """Build the page, and serve it until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--build-only", action="store_true", help="do not serve it")
    options = parser.parse_args()
    try:
        built = build()
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    if options.build_only:
        print(built)
        return 0
    server = serve(built, options.port)
    print(f"http://127.0.0.1:{server.server_port}/ (ends with Ctrl+C)")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
