"""Every name that leaves the library, with unit, signal and source."""
