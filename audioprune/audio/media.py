"""Decoding by FFmpeg, through PyAV, of what libsndfile lacks: M4A, WMA, WebM, AMR, AC-3 …, and the sound of videos.

PyAV is the extra `media`: import this module where it is needed. FFmpeg is told to open only formats and codecs of
recorded sound: among its others are playlists, which name further files and addresses.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame, format_dtypes
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Discard

from .native import AudioError, Native

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

FORMATS = (
    "mov,matroska,asf,aac,loas,amr,amrnb,amrwb,ac3,eac3,ape,wv,tta,tak,mpc,mpc8,dts,dtshd,mp3,ogg,oga,flac,wav,w64,"
    "aiff,au,caf,avi,flv,mpeg,mpegts"
)
"""FFmpeg's names of the formats that are opened."""
CODECS = (
    "aac,aac_latm,alac,als,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,flac,wmav1,wmav2,wmapro,"
    "wmalossless,wmavoice,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,ac3,eac3,dca,truehd,mlp,ape,wavpack,tta,tak,"
    "mpc7,mpc8,speex,nellymoser,gsm,gsm_ms,ilbc,g722,g726,g729,qdm2,qcelp,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,adpcm_swf,"
    "adpcm_g722,adpcm_g726,adpcm_yamaha,truespeech,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,"
    "pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_bluray,pcm_dvd"
)
"""FFmpeg's names of the codecs that are decoded."""

INDEXED = ("mov", "matroska", "asf", "avi")
"""Formats in which FFmpeg finds a moment by an index. In the others it guesses from the bit rate."""
PREROLL_SECONDS = 0.5
"""Sound that is decoded before the moment that was asked for, so that the decoder has settled there."""
FAR_SECONDS = 30.0
"""A moment that is nearer is reached by passing over packets, which is exact."""
TAIL_SECONDS = 10.0
"""Where an indexed file is read to find its end."""
PADDING_SECONDS = 0.2
"""Most silence that an encoder adds to fill its last frames, which an MP4's duration leaves out."""
MOST_DAMAGED = 0.1
"""Greatest share of packets that may be undecodable."""

_ASF_ENCRYPTION = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"), bytes.fromhex("14e68a292226174cb935dae07ee9289c")
"""Identifiers of the objects in which a WMA tells of its protection."""
_HEAD = 1 << 16
# Tags may be in any encoding. PyAV 19 always reads them so.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_ERRORS = (FFmpegError, ArithmeticError, LookupError, OSError, RuntimeError, ValueError)
"""What PyAV raises for a damaged file."""
_INCOMPLETE = (
    "is incomplete: its index (moov) is missing, as in a recording that was not ended or a copy that was cut short; "
    "record or copy it again"
)


class UnknownFormatError(AudioError):
    """A file whose format FFmpeg does not know either."""


class _RefusedError(Exception):
    """Why a file cannot be used, without its name."""


def decode_media(file: BinaryIO, name: str, start_seconds: float = 0.0, max_seconds: float | None = None) -> Native:
    """Decode a file from `start_seconds` on, at most `max_seconds` (None: everything).

    What the encoder put before and after the sound is left out where the format tells. The length of a file that is
    not decoded to its end is that of its stream, or of its packets, which are then counted.

    Raises `AudioError`: a file that is no sound, without a sound track, protected, incomplete or damaged.
    """
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    options = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
    try:
        with av.open(_Nameless(file), "r", container_options=options, **_TAGS) as container:
            return _Reader(container, head).read(start_seconds, max_seconds)
    except _RefusedError as refused:
        raise AudioError(f"{name}: {refused}") from refused
    except _ERRORS as error:
        if head[4:8] == b"ftyp" and b"moov" not in _boxes(file):
            raise AudioError(f"{name}: {_INCOMPLETE}") from error
        raise UnknownFormatError(
            f"{name}: cannot be decoded as audio ({getattr(error, 'strerror', None) or error})"
        ) from error


class _Nameless:
    """A file without its name: FFmpeg would trust the suffix, and a name may not be valid Unicode."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):  # a place that a damaged file names, and that is none
            return -1


class _Reader:
    """Reads one open file. head: its first bytes."""

    def __init__(self, container: InputContainer, head: bytes) -> None:
        self._container, self._format = container, container.format.name.split(",")[0]
        self._stream = _sound_track(container)
        codec = self._stream.codec_context.codec_tag
        if codec == "drms" or any(mark in head for mark in _ASF_ENCRYPTION):
            raise _protected()
        self._packets = self._damaged = 0
        self._end: float | None = None
        self._needed = -math.inf

    def read(self, start: float, most: float | None) -> Native:
        """Decode from `start` seconds on, at most `most` seconds."""
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            self._check_damage()
            raise _RefusedError("contains no sound that can be decoded; record or copy it again")
        rate, origin = first.sample_rate, first.time or 0.0
        begin, wanted = round(start * rate), math.inf if most is None else math.ceil(most * rate)
        if start > 0:
            self._go_to(origin + start - PREROLL_SECONDS, far=start > FAR_SECONDS)
        blocks: list[np.ndarray] = []
        position, is_whole = 0, True
        for frame in chain([first], frames):
            if frame.sample_rate != rate:
                raise _RefusedError(
                    f"changes its rate from {rate} to {frame.sample_rate} Hz; convert it to WAV or FLAC"
                )
            samples = _mono(frame)
            if start > 0 and not blocks and frame.time is not None:
                position = round((frame.time - origin) * rate)
            part = samples[max(0, begin - position) : int(min(len(samples), max(0, begin + wanted - position)))]
            position += len(samples)
            if len(part):
                blocks.append(part)
            if position >= begin + wanted:
                is_whole = False
                break
        self._check_damage()
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        seconds = position / rate if is_whole and (blocks or not start) else max(self._length(origin), position / rate)
        seconds = self._unpadded(seconds)
        samples = samples[: max(0, round(seconds * rate) - begin)]
        return Native(samples, rate, self._stream.codec_context.channels, seconds)

    def _frames(self) -> Iterator[AudioFrame]:
        """Frames from the present place on. Packets that end before `self._needed` are not decoded."""
        for packet in self._demux():
            if packet.has_sidedata("encryption_info"):
                raise _protected()
            if self._end is not None and packet.size and self._end < self._needed:
                continue
            self._packets += 1
            try:
                frames = packet.decode()
            except FFmpegError:
                self._damaged += 1
                continue
            for frame in frames:
                if isinstance(frame, AudioFrame) and frame.samples:
                    yield frame

    def _demux(self) -> Iterator[Packet]:
        """Packets from the present place on; `self._end` is where the last one ends, in seconds of the stream."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    self._end = (packet.pts + (packet.duration or 0)) * float(packet.time_base or 0)
                yield packet
        except FFmpegError:  # cut short: what is there is heard, as of a WAV
            return

    def _go_to(self, seconds: float, *, far: bool) -> None:
        """Let the next frame be of this moment of the stream, or a little earlier."""
        self._needed = seconds
        if far and self._format in INDEXED:
            self._seek(seconds)

    def _seek(self, seconds: float) -> None:
        with suppress(FFmpegError, OverflowError):  # then what is between is passed over
            self._container.seek(max(0, int(seconds * av.time_base)))
            self._end = None

    def _length(self, origin: float) -> float:
        """Seconds of the whole stream, from its packets."""
        if self._format in INDEXED and self._container.duration:
            self._seek(self._container.duration / av.time_base + origin - TAIL_SECONDS)
            deque(self._demux(), maxlen=0)
            if self._end is None:  # the sound ends long before the picture
                self._seek(0)
        deque(self._demux(), maxlen=0)
        return (self._end or 0.0) - origin

    def _unpadded(self, seconds: float) -> float:
        """Without the padding of the last frame, if the file tells of it."""
        if self._format != "mov" or not self._stream.duration:
            return seconds
        told = self._stream.duration * float(self._stream.time_base or 0)
        return told if told < seconds < told + PADDING_SECONDS else seconds

    def _check_damage(self) -> None:
        if self._damaged > MOST_DAMAGED * self._packets:
            raise _RefusedError(
                f"is damaged: {self._damaged} of {self._packets} packets cannot be decoded; record or copy it again"
            )


def _sound_track(container: InputContainer) -> AudioStream:
    """The track that players choose. The others are not read."""
    if not container.streams.audio:
        raise _RefusedError("has no sound track; give a file with sound")
    best = container.streams.best("audio")
    stream = best if isinstance(best, AudioStream) else container.streams.audio[0]
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    name = getattr(stream.codec_context, "name", "unknown")
    if name not in CODECS.split(","):
        raise _RefusedError(f"its sound is in a codec that is not decoded ({name}); convert it to WAV or FLAC")
    return stream


def _mono(frame: AudioFrame) -> np.ndarray:
    """Mean of the channels of a frame: (samples,) float32."""
    samples = _channels(frame)
    if samples.dtype == np.uint8:
        samples = samples.astype(np.int16) - 128
        return (samples / 128.0).mean(axis=0, dtype=np.float32)
    scale = 1.0 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    return (samples / scale).mean(axis=0).astype(np.float32)


def _channels(frame: AudioFrame) -> np.ndarray:
    """Samples of a frame as they are: (channels, samples).

    `frame.to_ndarray()` finds the planes by looking for the end of their list, which has none from eight channels on:
    it reads what is no plane, and may end the process.
    """
    name, channels = frame.format.name, frame.layout.nb_channels
    if name not in format_dtypes:
        raise ValueError(f"samples of the format {name} are not read")
    count, each = (channels, 1) if frame.format.is_planar else (1, channels)
    planes: list[Any] = [AudioPlane(frame, i) for i in range(count)]
    rows = [np.frombuffer(plane, format_dtypes[name], count=frame.samples * each) for plane in planes]
    return np.stack(rows) if frame.format.is_planar else rows[0].reshape(frame.samples, channels).T


def _protected() -> _RefusedError:
    return _RefusedError("is protected against copying (DRM), so no other program can hear it; use a free copy")


def _boxes(file: BinaryIO) -> set[bytes]:
    """Names of the outer parts of an MP4."""
    names: set[bytes] = set()
    place = 0
    while len(head := _at(file, place)) == 16:
        size, name = int.from_bytes(head[:4]), head[4:8]
        names.add(name)
        size = int.from_bytes(head[8:]) if size == 1 else size
        if size < 8:  # the last one
            break
        place += size
    return names


def _at(file: BinaryIO, place: int) -> bytes:
    if place > sys.maxsize:  # a damaged size, which no file has
        return b""
    file.seek(place)
    return file.read(16)
