"""
Enlarging: one picture through the network, tile by tile, as the hosted model does it.

Always at the network's own scale first, then resampled to what was asked for. Grey goes through as three equal colours
and comes back as their luma; alpha goes through as a grey picture of its own, or is copied where it is the same
everywhere. Raises what `network` and `pixels` raise. Only the worker imports this.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from daemon.engine.network import Network
from daemon.engine.pixels import Canvas, Raw, Source, as_input, as_pixels, columns
from daemon.engine.protocol import Done, Order, Step
from daemon.engine.tiling import Span, rows


def enlarge(network: Network, order: Order, side: int, overlap: int, tell: Callable[[Step], None]) -> Done:
    """Write the result. side, overlap: of a window, in source pixels. tell: is called after each tile."""
    source = Source(order.source, order.loader)
    plan = list(rows(source.width, source.height, side, overlap))
    count = sum(len(across) for _, across in plan)
    done = 0
    with Canvas(source, network.scale, Path(order.target).parent) as canvas:
        for down, spans in plan:
            band = source.band(down, overlap)
            for across in spans:
                window = columns(band, across)
                canvas.put(enlarged(network, source, window, down, across), across.start, down.start)
                done += 1
                tell(Step(done, count))
        width, height = canvas.save(order.target, order.scale)
    return Done(width, height, source.width * source.height, count)


def enlarged(network: Network, source: Source, window: Raw, down: Span, across: Span) -> Raw:
    """The tile's own part of a window, at the network's scale."""
    colours = window[:, :, : source.colours]
    parts = [_through(network, source, colours, down, across)]
    if source.has_alpha and source.alpha is not None:
        shape = (*parts[0].shape[:2], 1)
        parts.append(np.full(shape, source.alpha, source.dtype))
    elif source.has_alpha:
        parts.append(_through(network, source, window[:, :, source.colours :], down, across))
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def _through(network: Network, source: Source, bands: Raw, down: Span, across: Span) -> Raw:
    result, scale = network.run(as_input(bands, source.full)), network.scale
    top, left = (down.start - down.low) * scale, (across.start - across.low) * scale
    height, width = (down.stop - down.start) * scale, (across.stop - across.start) * scale
    return as_pixels(result[:, top : top + height, left : left + width], bands.shape[2], source)
