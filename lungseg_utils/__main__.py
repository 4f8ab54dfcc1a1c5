"""Find the lungs in chest films: `lungseg IN… OUT`, or `python -m lungseg_utils`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from lungseg_utils import __version__
from lungseg_utils.errors import LungsegError

KINDS = "mask, labels, overlay, nifti, dicom-seg, secondary-capture, gallery"
_INTERRUPTED = 130


def lungseg(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0; 1 where a film could not be segmented; 2 where nothing could be done, or the
        work broke off; 130 where it was interrupted. The same command then goes on.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else list(arguments)
    kinds = [kind.strip() for kind in options.save.split(",") if kind.strip()]
    try:
        # Late, so that --help and mistakes are answered at once.
        from lungseg_utils.segment.segmenter import TABLE, Segmenter, fill_folder

        segmenter, command = Segmenter.load(options.network), shlex.join(["lungseg", *words])
        results, rows = fill_folder(
            segmenter, options.inputs, options.out, kinds, options.deidentified, command
        )
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    failed = sum(bool(row["error"]) for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} films segmented: {results.out / TABLE}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lungseg",
        description="Find the lungs in frontal chest X-rays. For research and teaching; not a "
        "medical device.",
        epilog="A killed or interrupted run goes on where it was when the same command is given "
        "again.",
    )
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help="films: files (DICOM, PNG, JPEG, TIFF, NIfTI), folders, patterns, zip archives",
    )
    parser.add_argument("out", metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--save",
        metavar="KINDS",
        default="mask,overlay",
        help=f"what to write, joined by commas: {KINDS} (default: %(default)s)",
    )
    parser.add_argument(
        "--network",
        default="unet",
        help="unet, unetpp, pix2pix, a file of export_onnx, or a run's folder (default: unet)",
    )
    parser.add_argument(
        "--deidentified",
        action="store_true",
        help="leave the patient's identity out of DICOM objects too",
    )
    parser.add_argument("--version", action="version", version=f"lungseg_utils {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(lungseg())
