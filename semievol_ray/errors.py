"""The two ways a run can end badly, told apart by whose fault it is."""


class SemiEvolError(Exception):
    """Something failed that the user's input did not cause. One line; exit code 1."""


class UserError(SemiEvolError):
    """The user's input cannot be used: file, row, field, value, remedy. One line; exit code 2."""


class DamagedError(SemiEvolError):
    """A file of a run cannot be read as what it was written as."""
