"""The local prediction server: the hosted API's contract on this machine, with an engine of one's own behind it."""

from daemon.server.lanczos import LanczosUpscaler
from daemon.server.real_esrgan import RealEsrganUpscaler
from daemon.server.server import Counts, PredictionServer
from daemon.server.settings import ServerSettings
from daemon.server.upscaler import UpscaleError, Upscaler, UpscaleReport

__all__ = [
    "Counts",
    "LanczosUpscaler",
    "PredictionServer",
    "RealEsrganUpscaler",
    "ServerSettings",
    "UpscaleError",
    "UpscaleReport",
    "Upscaler",
]
