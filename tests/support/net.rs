//! A daemon with a guest at every socket, where each frame is accounted for at all of them.
//!
//! With one worker, a sender's frame is used only after its copies have been published in the receive
//! rings. So what has arrived anywhere by the time that a send returns is all that the frame became, and
//! a test sees who got it and who did not without waiting for either.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::guest::hex;
use super::{Evb, Guest, GuestOptions};

/// A daemon and its guests, by the names of their ports.
pub struct Net {
    /// The daemon.
    pub evb: Evb,
    guests: BTreeMap<String, Guest>,
}

/// A configuration of one relay `r` with these lines of its own. A port is a name and its lines; one named `up`
/// is the uplink.
pub fn relay(settings: &str, ports: &[(&str, &str)]) -> String {
    let mut config = "[daemon]\ncontrol = \"{dir}/control.sock\"\n".to_owned();
    config += &relay_named("r", settings, ports);
    config
}

/// The same without the daemon's table, and with a name, for configurations of several relays.
pub fn relay_named(name: &str, settings: &str, ports: &[(&str, &str)]) -> String {
    let mut config = format!("\n[[relay]]\nname = \"{name}\"\n{settings}\n");
    for (port, lines) in ports {
        let table = if port.starts_with("up") {
            "uplink"
        } else {
            "port"
        };
        write!(
            config,
            "\n[[{table}]]\nname = \"{port}\"\nrelay = \"{name}\"\nlisten = \"{{dir}}/{port}.sock\"\n{lines}\n"
        )
        .unwrap();
    }
    config
}

/// Names of the vhost-user ports and uplinks of a configuration, in the order of the file.
fn names(config: &str) -> Vec<String> {
    let table = config.parse::<toml::Table>().unwrap();
    let of = |kind: &str| {
        let tables = table.get(kind).and_then(|t| t.as_array()).cloned();
        tables.unwrap_or_default()
    };
    [of("port"), of("uplink")]
        .concat()
        .iter()
        .filter(|port| port.get("listen").is_some())
        .map(|port| port["name"].as_str().unwrap().to_owned())
        .collect()
}

impl Net {
    /// One relay: see [`relay`]. Guest 1 is at the first port, guest 2 at the next, and so on.
    pub fn new(settings: &str, ports: &[(&str, &str)]) -> Self {
        Self::start(&relay(settings, ports))
    }

    /// A daemon with this configuration, and a guest at each socket, the uplinks' last.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| GuestOptions::default())
    }

    /// The same, with other options for the guest at each port.
    pub fn start_with(config: &str, options: impl Fn(&str) -> GuestOptions) -> Self {
        let mut net = Self::alone(config);
        for (n, name) in (1..).zip(names(config)) {
            net.join_with(&name, n, options(&name));
        }
        // Through a passthrough relay the greeting of the guest that came last has reached the other.
        net.captured();
        net
    }

    /// The same with guests 1, 2, … at these ports, where a configuration does not write them out.
    pub fn start_named(config: &str, ports: &[&str]) -> Self {
        let mut net = Self::alone(config);
        for (n, name) in (1..).zip(ports) {
            net.join(name, n);
        }
        net
    }

    /// A daemon without guests.
    pub fn alone(config: &str) -> Self {
        Self {
            evb: Evb::start(config),
            guests: BTreeMap::new(),
        }
    }

    /// The guest at a port.
    pub fn at(&mut self, port: &str) -> &mut Guest {
        self.guests
            .get_mut(port)
            .unwrap_or_else(|| panic!("no guest at {port}"))
    }

    /// Connects a guest to a new port.
    pub fn join(&mut self, port: &str, number: u16) {
        self.join_with(port, number, GuestOptions::default());
    }

    /// The same with other options.
    pub fn join_with(&mut self, port: &str, number: u16, options: GuestOptions) {
        let guest = self.evb.guest_with(port, number, options);
        self.guests.insert(port.to_owned(), guest);
    }

    /// The guest at a port leaves.
    pub fn leave(&mut self, port: &str) -> Guest {
        self.guests.remove(port).unwrap()
    }

    /// Everything that has arrived, by port, each port's frames in their order. Empty ports are left out, and so
    /// are the RARP frames that announce registered addresses in their own time.
    pub fn captured(&mut self) -> BTreeMap<String, Vec<Vec<u8>>> {
        self.guests
            .iter_mut()
            .filter_map(|(name, guest)| {
                let frames: Vec<_> = std::iter::from_fn(|| guest.recv_any(Duration::ZERO))
                    .map(|frame| frame.bytes)
                    .filter(|frame| !is_rarp(frame))
                    .collect();
                (!frames.is_empty()).then(|| (name.clone(), frames))
            })
            .collect()
    }

    /// Sends a frame: these copies of it arrive, and no others anywhere.
    pub fn pass(&mut self, from: &str, frame: &[u8], to: &[(&str, &[u8])]) {
        self.at(from).send(frame);
        let mut wanted = BTreeMap::<_, Vec<_>>::new();
        for (port, copy) in to {
            wanted
                .entry((*port).to_owned())
                .or_default()
                .push(hex(copy));
        }
        let got: BTreeMap<_, Vec<_>> = self
            .captured()
            .into_iter()
            .map(|(port, frames)| (port, frames.iter().map(|f| hex(f)).collect()))
            .collect();
        assert_eq!(got, wanted, "from {from}: {}", hex(frame));
    }

    /// Sends a frame: it arrives as it is at `to`, once each, and nowhere else.
    pub fn flow(&mut self, from: &str, frame: &[u8], to: &[&str]) {
        let copies: Vec<_> = to.iter().map(|port| (*port, frame)).collect();
        self.pass(from, frame, &copies);
    }

    /// Sends a frame that goes nowhere and counts under `reason` at the sender.
    pub fn refused(&mut self, from: &str, frame: &[u8], reason: &str) {
        self.lost(from, frame, from, reason);
    }

    /// Sends a frame that goes nowhere and counts under `reason` at port `culprit`.
    pub fn lost(&mut self, from: &str, frame: &[u8], culprit: &str, reason: &str) {
        let before = self.evb.counter(culprit, reason);
        self.pass(from, frame, &[]);
        let after = self.evb.counter(culprit, reason);
        assert_eq!(after, before + 1, "{culprit}: {reason}: {}", hex(frame));
    }

    /// The entries that `evb fdb show` has for these arguments, as (vid, mac, port, kind), sorted.
    pub fn fdb(&self, filter: &[&str]) -> Vec<(Option<u64>, String, String, String)> {
        let control = self.evb.path("control.sock");
        let mut args = vec![
            "fdb",
            "show",
            "--json",
            "--control",
            control.to_str().unwrap(),
        ];
        args.extend(filter);
        let shown = self.evb.command(&args);
        assert_eq!(shown.code, Some(0), "{}", shown.output);
        let entries: Vec<serde_json::Value> = serde_json::from_str(&shown.output).unwrap();
        let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
        let mut entries: Vec<_> = entries
            .iter()
            .map(|e| {
                (
                    e["vid"].as_u64(),
                    text(e, "mac"),
                    text(e, "port"),
                    text(e, "kind"),
                )
            })
            .collect();
        entries.sort();
        entries
    }

    /// How many addresses a port has in the FDB.
    pub fn addresses(&self, port: &str) -> usize {
        self.fdb(&["--port", port]).len()
    }

    /// `evb fdb flush`; what it says.
    pub fn flush(&self, filter: &[&str]) -> String {
        let control = self.evb.path("control.sock");
        let mut args = vec!["fdb", "flush", "--control", control.to_str().unwrap()];
        args.extend(filter);
        let done = self.evb.command(&args);
        assert_eq!(done.code, Some(0), "{}", done.output);
        done.output
    }

    /// Replaces the configuration and returns when it is in force.
    pub fn reload(&mut self, config: &str) {
        let dir = self
            .evb
            .path("")
            .to_str()
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        std::fs::write(self.evb.path("evb.toml"), config.replace("{dir}", &dir)).unwrap();
        let done = self.reload_command();
        assert_eq!(done.0, Some(0), "{}", done.1);
    }

    /// `evb reload`: exit code and output.
    pub fn reload_command(&self) -> (Option<i32>, String) {
        let control = self.evb.path("control.sock");
        let done = self
            .evb
            .command(&["reload", "--control", control.to_str().unwrap()]);
        (done.code, done.output)
    }
}

/// Whether this is an announcement, tagged or not.
pub fn is_rarp(frame: &[u8]) -> bool {
    let at = if frame.get(12..14) == Some(&[0x81, 0]) {
        16
    } else {
        12
    };
    frame.get(at..at + 2) == Some(&[0x80, 0x35])
}
