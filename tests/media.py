"""Sound files in every format that is read, made by libsndfile and by PyAV, and files that are broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Format:
    """A format of FFmpeg.

    encoder: FFmpeg's name. rate: hertz. channels: of the sound. video: encoder of a picture beside it. muxer: FFmpeg's
    name of the format, if the suffix does not tell. options: of the muxer. bits: per second, if the encoder needs it.
    padding: seconds that the codec adds and the format does not tell of, at most.
    """

    encoder: str
    rate: int = 44_100
    channels: int = 2
    video: str | None = None
    muxer: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    bits: int | None = None
    padding: float = 0.0


LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}
"""Suffix → libsndfile's names."""
FORMATS = {
    "m4a": Format("aac"),
    "alac.m4a": Format("alac"),
    "mp4": Format("aac", rate=48_000, video="mpeg4"),
    "mov": Format("aac", rate=48_000, video="mpeg4"),
    "fragments.mp4": Format(
        "aac", muxer="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}, padding=0.1
    ),
    "webm": Format("libopus", rate=48_000, channels=1),
    "live.webm": Format("libopus", rate=48_000, channels=1, options={"live": "1"}),
    "mkv": Format("libopus", rate=48_000, video="mpeg4"),
    "wma": Format("wmav2", muxer="asf", bits=128_000, padding=0.15),
    "amr": Format("libopencore_amrnb", rate=8000, channels=1, bits=12_200, padding=0.05),
    "3gp": Format("libopencore_amrnb", rate=8000, channels=1, bits=12_200, padding=0.05),
    "ac3": Format("ac3", rate=48_000, padding=0.05),
    "aac": Format("aac", muxer="adts", padding=0.1),
    "avi": Format("libmp3lame", video="mpeg4", padding=0.1),
    "flv": Format("aac", padding=0.1),
    "m2ts": Format("aac", muxer="mpegts", padding=0.1),
    "mpg": Format("mp2", muxer="mpeg", padding=0.05),
    "wv": Format("wavpack"),
    "tta": Format("tta"),
}
"""Suffix → what it is made with."""
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""Channels → FFmpeg's name of them."""


def can_encode(kind: Format) -> bool:
    """Whether this FFmpeg has the encoders."""
    import av

    try:
        return all(av.Codec(name, "w") for name in (kind.encoder, kind.video) if name)
    except ValueError:  # PyAV has no such codec
        return False


def encode(path: Path, sound: np.ndarray, kind: Format) -> Path:
    """Write a sound, (samples,) at the rate of the format, with PyAV."""
    import av
    from av.audio.plane import AudioPlane

    layout = LAYOUTS[kind.channels]
    with av.open(str(path), "w", format=kind.muxer, options=dict(kind.options)) as container:
        stream = container.add_stream(kind.encoder, rate=kind.rate, layout=layout)
        if kind.bits:
            stream.bit_rate = kind.bits
        picture = None
        if kind.video:
            picture = container.add_stream(kind.video, rate=10)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        frame = av.AudioFrame(format="fltp", layout=layout, samples=len(sound))
        for i in range(kind.channels):  # `from_ndarray` fails from eight channels on
            AudioPlane(frame, i).update(np.ascontiguousarray(sound, np.float32))
        frame.sample_rate, frame.pts = kind.rate, 0
        container.start_encoding()
        context = stream.codec_context
        resampler = av.AudioResampler(context.format.name, layout, kind.rate, frame_size=context.frame_size or 1024)
        if picture is not None:
            black = np.zeros((64, 64, 3), np.uint8)
            for _ in range(int(10 * len(sound) / kind.rate)):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(black, "rgb24")))
            container.mux(picture.encode(None))
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write(path: Path, sound: np.ndarray, rate: int, suffix: str) -> Path:
    """Write a sound with libsndfile. suffix: key of `LIBSNDFILE`."""
    form, subtype = LIBSNDFILE[suffix]
    soundfile.write(str(path), sound, rate, format=form, subtype=subtype)
    return path


def silent_video(path: Path) -> Path:
    """A video without a sound track."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return path


PROTECTED = Format(
    "aac",
    muxer="mp4",
    options={
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "ffeeddccbbaa99887766554433221100",
    },
)
"""An MP4 whose sound is encrypted, as shops and broadcasters do."""
