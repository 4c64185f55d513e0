"""What is read: the recording, its trials, and the blocks that follow from both.

This room uses `hpcio.files` and `hpcio.machine`. Others take `Recording`, `Trials`, `Blocks` and
`Reader` from it; `read_recording` and `read_trials` take what a user names, also of several
recordings that are read as one, and `placed` gives trials the rows of the whole. A new kind of
recording or of trial table needs one file, here or elsewhere, and an entry in `RECORDINGS` or
`TRIAL_TABLES`.
"""

from hpcio.recording.blocks import SELECTED, Blocks, InputKind
from hpcio.recording.channels import Electrodes, electrodes
from hpcio.recording.clocks import Clock, clock_of_rows
from hpcio.recording.growing import Grown, grown
from hpcio.recording.hdf5 import is_phony, read_region, unnamed
from hpcio.recording.placing import placed, read_trials
from hpcio.recording.reading import LARGE, ReadAhead, Reader
from hpcio.recording.recording import RECORDINGS, OpenRecording, Recording, RecordingKind
from hpcio.recording.resulttables import FURTHER, OF_RUNS, column_of, columns_of_result
from hpcio.recording.scaling import Scaling
from hpcio.recording.selections import take
from hpcio.recording.sessions import dates_of_session
from hpcio.recording.several import SeveralRecordings, matching_files, read_recording
from hpcio.recording.showing import trials_in_words
from hpcio.recording.tables import TRIAL_TABLES, TrialTable, TrialTableKind
from hpcio.recording.trials import Trials
from hpcio.recording.windows import Outside

__all__ = [
    "FURTHER",
    "LARGE",
    "OF_RUNS",
    "RECORDINGS",
    "SELECTED",
    "TRIAL_TABLES",
    "Blocks",
    "Clock",
    "Electrodes",
    "Grown",
    "InputKind",
    "OpenRecording",
    "Outside",
    "ReadAhead",
    "Reader",
    "Recording",
    "RecordingKind",
    "Scaling",
    "SeveralRecordings",
    "TrialTable",
    "TrialTableKind",
    "Trials",
    "clock_of_rows",
    "column_of",
    "columns_of_result",
    "dates_of_session",
    "electrodes",
    "grown",
    "is_phony",
    "matching_files",
    "placed",
    "read_recording",
    "read_region",
    "read_trials",
    "take",
    "trials_in_words",
    "unnamed",
]
