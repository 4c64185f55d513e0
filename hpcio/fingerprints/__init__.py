"""What decides what a function computes: a digest of everything loaded that it reaches.

This room uses `hpcio.errors` alone. Others take the `fingerprint` of a function or of a value from
it, and ask it for the versions of installed packages. Two fingerprints are equal, in whatever
process they were taken, if the same was loaded there.
"""

from hpcio.fingerprints.making import Fingerprint, fingerprint
from hpcio.fingerprints.origins import has_version, version_of

__all__ = ["Fingerprint", "fingerprint", "has_version", "version_of"]
