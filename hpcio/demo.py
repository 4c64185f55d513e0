"""The demonstration: a simulated recording, its power spectra, and a picture of both."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpcio.errors import (
    Done,
    MissingPackageError,
    OptionError,
    OutputError,
    SourceError,
    TrialError,
    as_output_error,
)
from hpcio.files import open_file, sync
from hpcio.function import unwrap_io
from hpcio.journals import Ledger, discard
from hpcio.plan import Plan
from hpcio.reporting import COLOURS, canvas, draw_timeline, read_timeline, summary
from hpcio.results import open as open_result
from hpcio.results import verify
from hpcio.words import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PEAKS", "draw", "frequencies", "make_recording", "power", "run"]

RATE = 1000.0  # Hz
NFFT = 500  # bins of 2 Hz, so that each peak lies in the middle of one
SIZE = (1600, 1100)  # of the picture, pixels

# What is put into the recording, and must be found again in its spectra: name and Hz.
PEAKS = {"alpha": 10.0, "gamma": 40.0, "mains": 50.0}

# Levels are those of field potentials in a cortex.
NOISE = 100.0  # uV^2/Hz at 1 Hz, falling as f^-1.5
FLOOR = 0.02  # uV^2/Hz, the amplifier
ALPHA = 64.0  # uV^2, over all frequencies
ALPHA_WIDTH = 1.0  # Hz, standard deviation
GAMMA = 12.0  # uV at the middle of a burst
GAMMA_WIDTH = 0.06  # s, standard deviation
LINE = 3.0  # uV

TITLE = "hpcio demo: a simulated recording"


# ---------------------------------------------------------------------- the recording


def make_recording(
    path: str | os.PathLike[str],
    *,
    trials: int = 400,
    channels: int = 16,
    rate: float = RATE,
    seed: int = 1,
) -> Path:
    """Write a simulated recording of field potentials, cut into trials of unequal length.

    Each channel is a Gaussian process of a given spectrum: noise that falls as
    :math:`f^{-1.5}`, and an alpha rhythm at 10 Hz that waxes and wanes. A burst at 40 Hz
    follows the trigger of each trial, and the mains hum at 50 Hz throughout. From the first
    channel to the last, alpha fades and gamma grows.

    Parameters
    ----------
    path : str or path
        The file; an earlier recording of this function is replaced, nothing else is.
    trials : int
        How many; each lasts 0.8 to 1.6 s, with its trigger at 0.3 s, and a gap of 0.2 to
        0.6 s before and after it. All is made in memory: 0.2 MB a trial for 16 channels.
    channels : int
    rate : float
        Samples in a second; more than 200 Hz, to hold all that is put in.
    seed : int
        The same seed gives the same bytes.

    Returns
    -------
    pathlib.Path
        The file. It holds ``/lfp`` (samples, channels), float32, microvolts, with the scales
        ``/time`` in seconds and ``/channel``, the names; and ``/trials`` (trials, 3), int64:
        start, stop and offset in samples.

    Raises
    ------
    OptionError
        If a number makes no recording.
    OutputError
        If the file cannot be written, or is there and not of this function.

    Notes
    -----
    Noise of a given spectrum is made in the frequency domain, where its coefficients are
    independent and normal: Timmer, J. & König, M. (1995), On generating power law noise,
    Astronomy and Astrophysics 300, 707-710.
    """
    if trials < 1 or channels < 1 or rate <= 200:
        raise OptionError(
            f"{trials} trials of {channels} channels at {rate} Hz make no recording. "
            "Use at least one trial, one channel, and more than 200 Hz."
        )
    path = Path(path)
    _check_replaceable(path)
    rng = np.random.default_rng(seed)
    table, samples = _cut(rng, trials, rate)
    lfp = _simulate(rng, table, samples, channels, rate)
    names = [f"ch{k:02d}" for k in range(1, channels + 1)]
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with h5py.File(part, "x") as f:
                f.attrs.update(title=TITLE, seed=seed)
                _fill(f, lfp, table, names, rate)
            sync(part)  # a real one is on the disk by then, and holds up no sync of results
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path


def _fill(f: h5py.File, lfp: np.ndarray, table: np.ndarray, names: list[str], rate: float) -> None:
    """Write the signals, their scales, and the table of trials."""
    f["trials"] = table
    f["trials"].attrs["columns"] = "start stop offset"
    f["time"] = np.arange(len(lfp)) / rate
    f["time"].attrs["units"] = "s"
    f["channel"] = np.asarray(names, "S")
    f["lfp"] = lfp
    f["lfp"].attrs.update(units="uV", rate=rate)
    for dim, name in zip(f["lfp"].dims, ("time", "channel"), strict=True):
        dim.label = name
        f[name].make_scale(name)
        dim.attach_scale(f[name])


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    try:
        with open_file(path) as f:
            ours = f.attrs.get("title") == TITLE
    except SourceError:
        ours = False
    if not ours:
        raise OutputError(
            f"'{path}' was not made by the demo and is not replaced. Choose another folder."
        )


def _cut(rng: np.random.Generator, trials: int, rate: float) -> tuple[np.ndarray, int]:
    """The table of trials (N, 3), and the samples of the whole recording."""
    length = np.rint(rng.uniform(0.8, 1.6, trials) * rate).astype(np.int64)
    gap = np.rint(rng.uniform(0.2, 0.6, trials + 1) * rate).astype(np.int64)
    stop = np.cumsum(gap[:-1] + length)
    offset = np.full(trials, round(0.3 * rate))
    return np.stack([stop - length, stop, offset], axis=1), int(stop[-1] + gap[-1])


def _simulate(
    rng: np.random.Generator, table: np.ndarray, samples: int, channels: int, rate: float
) -> np.ndarray:
    """The signals (samples, channels), float32, in microvolts."""
    alpha_gain, gamma_gain = _gains(channels)
    hum = LINE * np.sin(2 * np.pi * PEAKS["mains"] / rate * np.arange(samples))
    bursts = _bursts(rng, table, samples, rate)
    lfp = np.empty((samples, channels), np.float32)
    for k in range(channels):
        noise = _gaussian_process(rng, samples, rate, alpha=alpha_gain[k] ** 2)
        lfp[:, k] = noise + gamma_gain[k] * bursts + hum
    return lfp


def _gains(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """How strong alpha and gamma are in each channel."""
    return np.linspace(1.0, 0.2, channels), np.linspace(0.2, 1.0, channels)


def _density(frequency: np.ndarray, alpha: float) -> np.ndarray:
    """Power spectral density of noise and alpha rhythm, uV^2/Hz."""
    # Flat below 1 Hz, where a recording amplifier's high-pass ends the rise.
    noise = NOISE * np.maximum(frequency, 1.0) ** -1.5 + FLOOR
    bump = np.exp(-0.5 * ((frequency - PEAKS["alpha"]) / ALPHA_WIDTH) ** 2)
    density: np.ndarray = noise + alpha * ALPHA * bump / (ALPHA_WIDTH * np.sqrt(2 * np.pi))
    return density


def _gaussian_process(
    rng: np.random.Generator, samples: int, rate: float, *, alpha: float
) -> np.ndarray:
    size = 1 << (samples - 1).bit_length()  # longer than needed: the ends do not join up
    density = _density(np.fft.rfftfreq(size, 1 / rate), alpha)
    normal = rng.standard_normal((2, density.size))
    spectrum = np.sqrt(density * size * rate / 4) * (normal[0] + 1j * normal[1])
    spectrum[0] = 0
    return np.fft.irfft(spectrum, size)[:samples]


def _bursts(rng: np.random.Generator, table: np.ndarray, samples: int, rate: float) -> np.ndarray:
    """A burst of gamma 0.15 to 0.35 s after each trigger, with a phase of its own."""
    signal = np.zeros(samples)
    centre = (table[:, 0] + table[:, 2]) / rate + rng.uniform(0.15, 0.35, len(table))
    phase = rng.uniform(0, 2 * np.pi, len(table))
    for (start, stop, _), middle, shift in zip(table, centre, phase, strict=True):
        time = np.arange(start, stop) / rate - middle
        envelope = GAMMA * np.exp(-0.5 * (time / GAMMA_WIDTH) ** 2)
        signal[start:stop] = envelope * np.cos(2 * np.pi * PEAKS["gamma"] * time + shift)
    return signal


# ---------------------------------------------------------------------- the function


def frequencies(*, rate: float = RATE, nfft: int = NFFT) -> np.ndarray:
    """The frequencies of :func:`power`, in the unit of `rate`: shape (nfft // 2 + 1,)."""
    return np.fft.rfftfreq(nfft, 1 / rate)


@unwrap_io
def power(
    trial: Any,
    rate: float = RATE,
    nfft: int = NFFT,
    chunkShape: tuple[int, ...] | None = None,
    noCompute: bool | None = None,  # noqa: FBT001 - as the interface has it
) -> Any:
    """Power spectral density of one trial, at as many frequencies whatever its length.

    Parameters
    ----------
    trial : numpy.ndarray, shape (samples, channels)
    rate : float
        Samples in a second.
    nfft : int
        Samples of a segment. A shorter trial is one segment, padded with zeros.
    chunkShape : tuple of int, optional
        The largest result of the run; not needed here.
    noCompute : bool, optional
        Return only shape and type of the result.

    Returns
    -------
    numpy.ndarray, shape (nfft // 2 + 1, channels), float32
        One-sided, in units of the trial squared per unit of `rate`. It is computed in
        float64; an estimate from a handful of segments is uncertain in its first digit, so
        that the seven of float32 lose nothing and halve the file.

    Raises
    ------
    hpcio.errors.TrialError
        If the trial has fewer than two samples.

    Notes
    -----
    The mean of the periodograms of segments that overlap by half, each without its mean and
    under a Hann window: Welch, P. D. (1967), The use of fast Fourier transform for the
    estimation of power spectra, IEEE Trans. Audio Electroacoust. 15, 70-73.
    """
    samples, channels = trial.shape
    if samples < 2:
        raise TrialError("A spectrum needs two samples at the least. Leave this trial out.")
    if noCompute:
        return (nfft // 2 + 1, channels), np.dtype(np.float32)
    length = min(nfft, samples)
    window = np.sin(np.pi * np.arange(length) / length) ** 2
    segments = np.lib.stride_tricks.sliding_window_view(trial, length, axis=0)
    segments = segments[:: max(1, length // 2)].astype(np.float64)  # (segment, channel, sample)
    segments -= segments.mean(axis=-1, keepdims=True)
    density = np.abs(np.fft.rfft(segments * window, nfft)) ** 2 / (rate * np.sum(window**2))
    # Every frequency stands for its negative too, but 0 and (if it is there) rate / 2.
    density[..., 1 : (nfft + 1) // 2] *= 2
    return density.mean(axis=0).T.astype(np.float32)


# ---------------------------------------------------------------------- all together


def run(
    folder: str | os.PathLike[str] = "demo", *, workers: int | None = None, trials: int = 400
) -> Done:
    """See it work: a recording, its plan, a run on all cores, a check, and a picture.

    Parameters
    ----------
    folder : str or path
        Made if needed. A second run starts over: it removes what the first one wrote.
    workers : int, optional
        By default one for each core.
    trials : int
        Of the recording.

    Returns
    -------
    Done

    Raises
    ------
    OutputError
        If the folder cannot be written, or holds files of the same names that are not of
        the demo.
    """
    folder = Path(folder)
    recording, out, picture = folder / "recording.h5", folder / "power.h5", folder / "power.png"
    _make_room(folder, recording, out, picture)
    make_recording(recording, trials=trials)
    with h5py.File(recording) as f:
        names = f["channel"][()]
    plan = Plan.create(
        power, f"{recording}::/lfp", trials=f"{recording}::/trials", out=out, join="stack",
        axes={"trial": None, "frequency": frequencies(), "channel": names},
    )  # fmt: skip
    say(f"{plan.describe(workers=workers)}\n")
    done = plan.run(workers=workers)
    checked = verify(out)
    try:
        drawn = str(draw(picture, out))
    except MissingPackageError as error:
        drawn = f"none. {error}"
    _say(plan, done, out, recording, verified=checked.nbytes, drawn=drawn)
    return done


def _make_room(folder: Path, recording: Path, out: Path, picture: Path) -> None:
    """Make the folder, and remove what an earlier demo wrote there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, folder) from error
    _check_replaceable(recording)
    # A pipe would wait for somebody to write.
    is_file, is_there = picture.is_file(), os.path.lexists(picture)
    if is_there and not (is_file and b"hpcio" in picture.read_bytes()[:200]):
        raise OutputError(f"'{picture}' is not of the demo. Move it, or choose another folder.")
    discard(out)


def _say(plan: Plan, done: Done, out: Path, recording: Path, *, verified: int, drawn: str) -> None:
    """Print what was made, and how to read it."""
    count = max(1, done.workers)
    shape = " x ".join(
        f"{n} {axis.name}" for n, axis in zip(plan.target.shape, plan.axes, strict=True)
    )
    say(
        f"{done.blocks_per_second:.0f} trials/s, {done.mb_per_second:.0f} MB/s read and written "
        f"by {count} worker{'s' * (count != 1)}; {verified / 1e6:.1f} MB verified.\n\n"
        f"recording   {recording}  ({recording.stat().st_size / 1e6:.0f} MB)\n"
        f"result      {out}  ({shape})\n"
        f"its parts   {plan.run_directory.name} beside it; one file: hpcio repack {out}\n"
        f"picture     {drawn}\n\n"
        f"Read the result with plain h5py:\n\n{_snippet(out)}"
    )


def _snippet(out: Path) -> str:
    return (
        f"import h5py\n"
        f"with h5py.File({os.fspath(out)!r}) as f:\n"
        f'    power = f["data"][...]      # (trial, frequency, channel), uV^2/Hz\n'
        f'    hertz = f["frequency"][...]\n'
        f"print(power.shape, hertz[:3])\n"
    )


def draw(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Draw the spectra of a demo, and how they were computed: a PNG of `SIZE` pixels.

    Parameters
    ----------
    path : str or path
        The picture.
    out : str or path
        The result of :func:`run`.

    Returns
    -------
    pathlib.Path
        The picture.
    """
    with open_result(out) as f:
        mean = f["data"][...].mean(axis=0, dtype=np.float64)
        hertz = f["frequency"][()]
        names = [name.decode() for name in f["channel"][()]]
    times = read_timeline(Ledger.read(Plan.load(out)))
    with canvas(path, *SIZE) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=(5, 3))
        figure.suptitle(summary(times), x=0.012, ha="left", parse_math=False)
        upper.set_title(f"Mean power spectrum of {len(times)} trials")
        _spectra(upper, hertz, mean, names)
        lower.set_title("How the workers spent their time")
        draw_timeline(lower, times)
    return Path(path)


def _spectra(ax: Axes, hertz: np.ndarray, mean: np.ndarray, names: list[str]) -> None:
    """Mean spectra (frequency, channel) of some channels, with the peaks that were put in."""
    shown = (hertz >= 1) & (hertz <= 80)
    some = np.unique(np.linspace(0, len(names) - 1, 4).round().astype(int)).tolist()
    for name, frequency in PEAKS.items():
        ax.axvline(frequency, color=COLOURS["pale"], linewidth=6, zorder=0)
        ax.annotate(
            f"{name} {frequency:.0f} Hz", (frequency, 1), xycoords=("data", "axes fraction"),
            ha="center", va="top",
        )  # fmt: skip
    ax.semilogy(
        hertz[shown], _density(hertz[shown], 0.0), color=COLOURS["grey"], linestyle="--",
        linewidth=1.2, label="noise put in, $f^{-1.5}$",
    )  # fmt: skip
    for k, colour in zip(some, ("blue", "green", "orange", "red"), strict=False):
        ax.semilogy(
            hertz[shown], mean[shown, k], color=COLOURS[colour], linewidth=1.6,
            label=names[k],
        )  # fmt: skip
    ax.set(xlim=(0, 80), xlabel="frequency (Hz)", ylabel="power (µV²/Hz)")
    ax.set_ylim(top=ax.get_ylim()[1] * 2)  # room for the names of the peaks
    ax.legend(loc="upper right")
