//! The one error type of the kernels. A row is always counted over the whole (chunked) input.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A value in this row cannot be used; `column` is empty until it is known.
    Row { column: &'static str, row: usize, message: String },
    /// An argument as a whole cannot be used.
    Input(String),
    /// The caller asked to stop.
    Cancelled,
    /// A kernel panicked: a mistake of ours.
    Panic(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn row(row: usize, message: impl Into<String>) -> Self {
        Self::Row { column: "", row, message: message.into() }
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// The same error with its row counted from `first_row` on.
    pub fn shifted(self, first_row: usize) -> Self {
        match self {
            Self::Row { column, row, message } => {
                Self::Row { column, row: row + first_row, message }
            }
            other => other,
        }
    }

    /// The same error with the name of the column that it was found in.
    pub fn of(self, name: &'static str) -> Self {
        match self {
            Self::Row { column: "", row, message } => Self::Row { column: name, row, message },
            Self::Input(message) => Self::Input(format!("{name}: {message}")),
            other => other,
        }
    }

    /// Of two errors the one to report: the lower row, so that a message does not depend on how
    /// the work was split.
    pub fn first(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Row { row: a, .. }, Self::Row { row: b, .. }) if b < a => other,
            (Self::Row { .. }, _) => self,
            (_, Self::Row { .. }) => other,
            _ => self,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { column: "", row, message } => write!(f, "row {row}: {message}"),
            Self::Row { column, row, message } => write!(f, "{column}: row {row}: {message}"),
            Self::Input(message) => f.write_str(message),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Panic(message) => write!(f, "a kernel panicked, please report it: {message}"),
        }
    }
}

impl std::error::Error for Error {}
