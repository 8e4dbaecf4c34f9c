"""
Bare network: a loop that runs ncnn on the tiles of a picture and does nothing else, in a process of its own.

`bare_network.py PICTURE PARAM BIN INPUT OUTPUT THREADS SIDE OVERLAP` prints the seconds of its loop: no reading, no
packing, no process to talk to, no memory that is watched.
"""

import json
import sys
import time

import ncnn
import numpy as np

from daemon.engine.pixels import Source, as_input, columns
from daemon.engine.tiling import rows


def windows(picture: str, side: int, overlap: int) -> list[np.ndarray]:
    source = Source(picture, "pngload")
    found = []
    for down, across in rows(source.width, source.height, side, overlap):
        band = source.band(down, overlap)
        found += [np.ascontiguousarray(as_input(columns(band, each), source.full)) for each in across]
    return found


def main(
    picture: str, param: str, weights: str, input_: str, output: str, threads: int, side: int, overlap: int
) -> None:
    net = ncnn.Net()
    net.opt.num_threads = threads
    assert net.load_param(param) == 0
    assert net.load_model(weights) == 0
    tiles = windows(picture, side, overlap)
    began = time.perf_counter()
    for tile in tiles:
        extractor = net.create_extractor()
        extractor.input(input_, ncnn.Mat(tile).clone())
        code, _ = extractor.extract(output)
        assert code == 0
    print(json.dumps({"seconds": time.perf_counter() - began, "tiles": len(tiles)}))


if __name__ == "__main__":
    main(*sys.argv[1:6], *map(int, sys.argv[6:9]))
