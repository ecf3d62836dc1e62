//! Opening what new ports need: devices and sockets.
//!
//! The helper may take seconds for a device, so during a reload this happens on a thread of its own: front ends, the
//! API and the news of devices are served meanwhile.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::links::{Attempts, Named, Opener};

/// What is to be opened.
pub struct Openings {
    pub opener: Opener,
    /// The devices of ports, by name, and the MTU that they are to have at least.
    pub links: Vec<(String, Vec<Named>, Option<u16>)>,
    /// The sockets of ports, by name.
    pub sockets: Vec<(String, PathBuf)>,
}

/// What came of it, by the names of the ports.
#[derive(Debug)]
pub struct Opened {
    links: BTreeMap<String, Attempts>,
    listeners: BTreeMap<String, Result<UnixListener, String>>,
}

/// Why a port has nothing to take, which cannot be: both halves of a reload look at the same configuration.
const FORGOTTEN: &str = "it was not opened";

impl Openings {
    /// Opens all of it, one after the other.
    pub fn open(self) -> Opened {
        let Self {
            opener,
            links,
            sockets,
        } = self;
        let links = links.into_iter().map(|(port, names, mtu)| {
            let attempts = opener.attempt(&names, mtu);
            (port, attempts)
        });
        let links = links.collect();
        let listeners = sockets.into_iter().map(|(port, path)| {
            let listener = opener.privileged.bind(&path);
            (port, listener.map_err(|error| error.to_string()))
        });
        Opened {
            links,
            listeners: listeners.collect(),
        }
    }
}

impl Opened {
    /// Takes the devices of a port.
    pub fn take_links(&mut self, port: &str) -> Attempts {
        let taken = self.links.remove(port);
        taken.unwrap_or_else(|| vec![Err(FORGOTTEN.to_owned())])
    }

    /// Takes the socket of a port.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn take_listener(&mut self, port: &str) -> Result<UnixListener, String> {
        let taken = self.listeners.remove(port);
        taken.unwrap_or_else(|| Err(FORGOTTEN.to_owned()))
    }
}
