//! From what a user writes to a [`Config`] that cannot be wrong.
//!
//! Two types: the file form (what may be written, with the place of every word) and [`Config`] (all
//! defaults filled in, all contradictions refused). The conversion between them reports as many
//! mistakes as it can find at once, each with its place in the text and with what would be right.
//!
//! Invariants: a `Config` names no relay, port or group that it does not hold; its relays obey the
//! rules that `relay/` relies on; arbitrary input yields an error, never a panic. Everything but
//! [`Config::load`] is pure.
//!
//! Does not know: whether a socket can be bound, a NIC exists or a CPU is there; that is found out
//! by those who open them.

use std::path::{Path, PathBuf};

use crate::relay::{Mode, PortConfig, VlanConfig};

mod convert;
mod diff;
mod file;
mod load;
mod model;
mod read;
mod report;
mod specs;

pub use diff::{Change, Impact, Step, Update};
pub use model::{
    Attachment, Backend, Config, Daemon, End, Generator, Handed, HandedKind, Link, LinkKind,
    MacvtapMode, Member, Patch, Poll, Port, Relay, Sriov, StaticEntry, Tap, Uplink, Via,
};
pub use report::{ConfigErrors, Fault, Span};

/// The relay that ports of the command line join.
pub const DEFAULT_RELAY: &str = "default";

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let origin = path.display().to_string();
        let text = load::text(path).map_err(|fault| ConfigErrors::new(&origin, "", vec![fault]))?;
        Config::parse(&text, &origin)
    }

    /// Reads a configuration; `origin` is what errors call the text.
    pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigErrors> {
        let mut faults = Vec::new();
        let file = read::read(text, &mut faults);
        let config = convert::convert(&file, &mut faults);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::new(origin, text, faults))
        }
    }

    /// The configuration that needs no file: each socket is that of a VM, all in bridge mode on one
    /// relay, each named after its socket.
    pub fn from_ports(sockets: &[PathBuf]) -> Result<Config, ConfigErrors> {
        let mut faults = Vec::new();
        let mut config = Config::default();
        config
            .relays
            .insert(DEFAULT_RELAY.to_owned(), Relay::default());
        for given in sockets {
            let shown = given.display();
            let path = std::path::absolute(given).unwrap_or_else(|_| given.clone());
            let path = match convert::words::socket_path(&path) {
                Ok(path) => path,
                Err((wrong, right)) => {
                    faults.push(Fault::new(format!("--port {shown}: {wrong}")).help(right));
                    continue;
                }
            };
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let before = faults.len();
            convert::words::check_name(&name, "port", 0..0, &mut faults);
            if faults.len() > before {
                faults.truncate(before);
                faults.push(
                    Fault::new(format!(
                        "--port {shown}: `{name}` cannot be the name of a port"
                    ))
                    .help(
                        "the name of the socket is made of letters, digits and any of `_ - . : @`",
                    ),
                );
                continue;
            }
            let port = Port {
                relay: DEFAULT_RELAY.to_owned(),
                backend: Backend::Listen(path.clone()),
                queues: convert::QUEUES_OF_VM,
                worker: None,
                settings: PortConfig::local(Mode::Bridge, VlanConfig::Flat, Vec::new()),
            };
            if let Some(other) = config.ports.insert(name.clone(), port) {
                let twice = other.backend == Backend::Listen(path);
                let title = if twice {
                    format!("--port {shown} is given twice")
                } else {
                    format!("--port {shown}: there is a port `{name}` already")
                };
                faults.push(
                    Fault::new(title)
                        .help("ports are named after their sockets: give each its own"),
                );
            }
        }
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::new("command line", "", faults))
        }
    }
}

#[cfg(test)]
mod tests;
