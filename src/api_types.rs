//! What travels over the control API, as JSON: written by the server, read by the command line.
//!
//! Version 1, under `/v1`: fields may be added, so readers skip what they do not know; names and
//! meanings stay. RX and TX are from the guest's side, in the names of counters too. Plain data; this
//! file knows neither HTTP nor who answers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::stats::{DropReason, Totals, VlanTotals};

/// `GET /v1/version`: who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The program's version.
    pub version: String,
    /// The API's version: `v1`.
    pub api: String,
}

/// `GET /v1/status`: the daemon as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Process number of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The forwarding threads.
    pub workers: Vec<WorkerStatus>,
    /// Relays by name.
    pub relays: Vec<RelayStatus>,
    /// Local ports and uplinks by name.
    pub ports: Vec<PortStatus>,
}

/// One forwarding thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number, from 0.
    pub id: usize,
    /// The CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// TX queues, and queues of devices, that it is to serve.
    pub queues: usize,
    /// Thousandths of the last second in which it was busy with frames.
    #[serde(default)]
    pub busy_permille: u32,
    /// Nanoseconds in which it was busy with frames since the daemon started, as far as they were measured.
    #[serde(default)]
    pub busy_ns: u64,
}

/// One relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Its name.
    pub name: String,
    /// Names of its local ports and its uplink.
    pub ports: Vec<String>,
    /// Entries in its FDB.
    pub fdb_entries: u64,
    /// Entries that its FDB may have.
    pub fdb_limit: u64,
    /// VLANs in which anything was counted, by VID.
    #[serde(default)]
    pub vlans: Vec<VlanStatus>,
}

/// One VLAN of a relay: what was counted in it, over all ports and workers, since the relay exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanStatus {
    /// Its VID; none in a flat relay, and for frames that were dropped before they had one.
    pub vid: Option<u16>,
    /// Frames that ports sent in it.
    pub in_frames: u64,
    /// Bytes of these, as they were received.
    pub in_bytes: u64,
    /// Copies that were delivered to ports.
    pub out_frames: u64,
    /// Bytes of these, as they were delivered.
    pub out_bytes: u64,
    /// Frames, and copies, that were dropped; the counters of the ports have the reasons.
    pub drops: u64,
}

impl VlanStatus {
    /// What was counted under `vid`, where 0 stands for none.
    pub fn new(vid: u16, totals: &VlanTotals) -> VlanStatus {
        VlanStatus {
            vid: (vid != 0).then_some(vid),
            in_frames: totals.in_frames,
            in_bytes: totals.in_bytes,
            out_frames: totals.out_frames,
            out_bytes: totals.out_bytes,
            drops: totals.drops,
        }
    }
}

/// One local port or uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// Name of its relay.
    pub relay: String,
    /// On which side of the relay it is.
    pub role: PortRole,
    /// How it talks to the other local ports; none on an uplink.
    pub mode: Option<PortMode>,
    /// How far it has come: `state`, and `reason` beside it where it has failed.
    #[serde(flatten)]
    pub state: PortState,
    /// Path of its vhost-user socket, if it has one.
    pub socket: Option<String>,
    /// Its devices of the host: none, one, or those of a bond in the order of preference.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
    /// Queue pairs in use.
    pub queues: u16,
    /// The worker that is to serve each of these.
    #[serde(default)]
    pub workers: Vec<usize>,
    /// Names of the features that were negotiated.
    pub features: Vec<String>,
    /// The longest payload that is delivered to it, if there is a limit.
    pub mtu: Option<u16>,
    /// Addresses that are registered or pinned on it.
    #[serde(with = "text::list")]
    pub macs: Vec<Mac>,
    /// The last source address that its policy refused.
    #[serde(with = "text::option")]
    pub refused_mac: Option<Mac>,
    /// What a load port has seen; none at other ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadStatus>,
    /// What was counted.
    pub counters: Counters,
}

/// What a load port has seen of frames that carry a number, since it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Whether it can send.
    pub generator: bool,
    /// Whether it sends now.
    pub running: bool,
    /// Numbered frames that it got.
    pub received: u64,
    /// Numbers that were passed over and have not come since.
    pub missing: u64,
    /// Frames that came behind a later one of their flow.
    pub late: u64,
    /// Frames that came again.
    pub twice: u64,
    /// Frames without a number.
    pub stray: u64,
}

/// A device of the host behind a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name of the link: the port's, or that of the link in the bond.
    pub name: String,
    /// What it is, by the word of the configuration: `tap`, `macvtap`, `af_packet`, `af_xdp`.
    pub kind: String,
    /// Name of the network device.
    pub device: String,
    /// Whether the device is there and open; where it is not, it is looked for.
    pub present: bool,
    /// Whether it is switched on and has a carrier.
    pub carrier: bool,
    /// Whether it carries the frames of the port.
    pub active: bool,
    /// Its MTU, while it is there.
    pub mtu: Option<u16>,
    /// How `af_xdp` gets its frames, while it is there: `zero-copy`, `copy` or `generic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// On which side of its relay a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortRole {
    /// A VM, the host, or a patch link.
    Local,
    /// The way to the adjacent switch.
    Uplink,
}

/// How a local port talks to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// Directly.
    Bridge,
    /// By way of the adjacent switch.
    Vepa,
    /// Not at all.
    Private,
    /// It has the uplink for itself.
    Passthrough,
}

/// How far a port has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PortState {
    /// Nobody is there.
    Down,
    /// A front end is there, its rings do not run.
    Connected,
    /// Frames come and go.
    Running,
    /// Out of use until the guest resets or the front end comes again.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// What was counted at a port, over all workers, since it exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames the port sent.
    pub tx_frames: u64,
    /// Bytes the port sent.
    pub tx_bytes: u64,
    /// Broadcast frames among them.
    pub tx_broadcast: u64,
    /// Multicast frames among them, without broadcasts.
    pub tx_multicast: u64,
    /// Frames delivered to the port.
    pub rx_frames: u64,
    /// Bytes delivered to the port.
    pub rx_bytes: u64,
    /// Broadcast frames among them.
    pub rx_broadcast: u64,
    /// Multicast frames among them, without broadcasts.
    pub rx_multicast: u64,
    /// Notifications sent to the guest.
    pub calls: u64,
    /// Notifications received from the guest.
    pub kicks: u64,
    /// Frames whose source could not be learned because of a limit, or because it moves too often;
    /// where the uplink does not reflect they were forwarded all the same.
    #[serde(default)]
    pub unlearned: u64,
    /// Frames dropped on account of the port, by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

impl From<&Totals> for Counters {
    fn from(totals: &Totals) -> Counters {
        let drops = DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), totals.dropped(reason)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Counters {
            tx_frames: totals.tx_frames,
            tx_bytes: totals.tx_bytes,
            tx_broadcast: totals.tx_broadcast,
            tx_multicast: totals.tx_multicast,
            rx_frames: totals.rx_frames,
            rx_bytes: totals.rx_bytes,
            rx_broadcast: totals.rx_broadcast,
            rx_multicast: totals.rx_multicast,
            calls: totals.calls,
            kicks: totals.kicks,
            unlearned: 0,
            drops,
        }
    }
}

/// One address in an FDB; `GET /v1/fdb` answers with an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Name of the relay.
    pub relay: String,
    /// The VLAN, or the lowest of those that learn together; none in a flat relay, and where the
    /// address is valid in all VLANs of its port.
    pub vid: Option<u16>,
    /// The address.
    #[serde(with = "text")]
    pub mac: Mac,
    /// Name of the port that it is behind.
    pub port: String,
    /// How it came there.
    pub kind: FdbKind,
    /// Seconds since it was last seen as a source; none where it does not age.
    pub age_s: Option<u64>,
}

/// How an entry came into the FDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FdbKind {
    /// An address that the configuration gives to the port.
    Registered,
    /// The first source address of a pinned port.
    Pinned,
    /// By configuration.
    Static,
    /// From a source address; it ages.
    Learned,
}

impl fmt::Display for FdbKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FdbKind::Registered => "registered",
            FdbKind::Pinned => "pinned",
            FdbKind::Static => "static",
            FdbKind::Learned => "learned",
        })
    }
}

/// Which entries of the FDB are meant: those that fit everything that is given. The query of
/// `GET` and `DELETE /v1/fdb`; an unknown word is an error, so that a slip does not mean "all".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbFilter {
    /// Name of a relay.
    pub relay: Option<String>,
    /// Name of a port.
    pub port: Option<String>,
    /// A VLAN.
    #[serde(default, with = "text::option")]
    pub vid: Option<Vid>,
    /// An address.
    #[serde(default, with = "text::option")]
    pub mac: Option<Mac>,
}

impl FdbFilter {
    /// What is given, as names and values for a query.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            self.relay.clone().map(|relay| ("relay", relay)),
            self.port.clone().map(|port| ("port", port)),
            self.vid.map(|vid| ("vid", vid.to_string())),
            self.mac.map(|mac| ("mac", mac.to_string())),
        ]
        .into_iter()
        .flatten()
    }
}

/// What a generator is to do: the query of `POST` and `DELETE /v1/load`, of which the latter has a port only. The answer to
/// both is a [`LoadStatus`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadOrder {
    /// Name of its port.
    pub port: String,
    /// How fast, as in the configuration; what that says where it is missing.
    pub rate: Option<String>,
    /// For how long; until it is stopped where it is missing.
    pub seconds: Option<f64>,
}

impl LoadOrder {
    /// What is given, as names and values for a query.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            Some(("port", self.port.clone())),
            self.rate.clone().map(|rate| ("rate", rate)),
            self.seconds.map(|time| ("seconds", time.to_string())),
        ]
        .into_iter()
        .flatten()
    }
}

/// The answer to `DELETE /v1/fdb`, which forgets learned entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// How many there were.
    pub count: u64,
}

/// The answer to `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What was changed, a phrase each; empty where the configuration says what it said before.
    pub changes: Vec<String>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What is wrong.
    pub error: String,
    /// What would be right, or what to do.
    pub remedy: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Reads a VLAN as people write it.
///
/// # Errors
///
/// A phrase that says what would be right.
pub fn parse_vid(text: &str) -> Result<Vid, String> {
    let number = text.parse().ok().and_then(Vid::new);
    number.ok_or_else(|| format!("a VLAN is a number from 1 to {}", Vid::MAX))
}

/// Values that are written as text in JSON, the way people write them.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Mac, Vid};

    /// A type with one way to be written.
    pub trait Text: Display + Sized {
        fn read(text: &str) -> Result<Self, String>;
    }

    impl Text for Mac {
        fn read(text: &str) -> Result<Mac, String> {
            Mac::from_str(text).map_err(|error| format!("{text:?}: {error}"))
        }
    }

    impl Text for Vid {
        fn read(text: &str) -> Result<Vid, String> {
            super::parse_vid(text).map_err(|error| format!("{text:?}: {error}"))
        }
    }

    pub fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        T::read(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    /// The same, for a value that may be missing.
    pub mod option {
        use super::{Deserialize, Deserializer, Error, Serializer, Text};

        #[expect(clippy::ref_option, reason = "serde calls it this way")]
        pub fn serialize<T: Text, S: Serializer>(
            value: &Option<T>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => to.collect_str(value),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<T>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            text.map(|text| T::read(&text).map_err(D::Error::custom))
                .transpose()
        }
    }

    /// The same, for several values.
    pub mod list {
        use super::{Deserialize, Deserializer, Error, Serializer, Text};

        pub fn serialize<T: Text, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(values.iter().map(ToString::to_string))
        }

        pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<T>, D::Error> {
            let texts = Vec::<String>::deserialize(from)?;
            texts
                .iter()
                .map(|text| T::read(text).map_err(D::Error::custom))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;
