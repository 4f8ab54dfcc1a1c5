"""Find the lungs in chest films: `lungseg IN… OUT`, or `python -m lungseg_utils`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

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
        table, films, failed = _fill(options, kinds, shlex.join(["lungseg", *words]))
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    print(f"{films - failed} of {films} films segmented: {table}")
    return 1 if failed else 0


def _fill(options: argparse.Namespace, kinds: list[str], command: str) -> tuple[Path, int, int]:
    """The table that is made, how many films are in it, and how many of them failed."""
    # Late, so that --help and mistakes are answered at once.
    from lungseg_utils.segment.segmenter import TABLE, Segmenter, fill_folder

    wanted = Segmenter.load(options.network, options.fast), options.inputs, options.out, kinds
    if options.ray:
        from lungseg_utils.cluster import fill_from_cluster

        return fill_from_cluster(*wanted, options.deidentified, command, options.ray)
    results, rows = fill_folder(*wanted, options.deidentified, command)
    return results.out / TABLE, len(rows), sum(bool(row["error"]) for row in rows)


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
        "--fast",
        action="store_true",
        help="run one network alone, and leave out how far its masks can be trusted",
    )
    parser.add_argument(
        "--deidentified",
        action="store_true",
        help="leave the patient's identity out of DICOM objects too",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="share the work among the machines of a Ray cluster (`auto`, HOST:PORT; `local` for "
        "this machine alone); the table is then a folder of Parquet files",
    )
    parser.add_argument("--version", action="version", version=f"lungseg_utils {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(lungseg())
