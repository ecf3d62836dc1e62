//! Where log messages go: to the journal where standard error is connected to it, so that priorities
//! and fields survive, and to standard error otherwise.

use std::io;

use log::LevelFilter;
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Names a level where the command line does not.
pub const VARIABLE: &str = "EVB_LOG";

/// The level that the command line or the environment names, or `info`.
///
/// # Errors
///
/// A sentence that names the variable and what would be right.
pub fn level(option: Option<LevelFilter>) -> Result<LevelFilter, String> {
    match (option, std::env::var_os(VARIABLE)) {
        (Some(level), _) => Ok(level),
        (None, None) => Ok(LevelFilter::Info),
        (None, Some(text)) => parse_level(&text.to_string_lossy())
            .map_err(|error| format!("{VARIABLE}={}: {error}", text.display())),
    }
}

/// Reads a level.
pub(super) fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse()
        .map_err(|_| "a level is off, error, warn, info, debug or trace".to_owned())
}

/// Sends the messages of this process away from now on; once in its life.
///
/// # Errors
///
/// The journal cannot be reached, or there is a logger already.
pub fn init(level: LevelFilter) -> io::Result<()> {
    if connected_to_journal() {
        JournalLog::new()?.install().map_err(io::Error::other)?;
        log::set_max_level(level);
        Ok(())
    } else {
        env_logger::Builder::new()
            .filter_level(level)
            .try_init()
            .map_err(io::Error::other)
    }
}
