//! Reload by difference: what must be done to get from one configuration to another.
//!
//! Invariant: applying `Config::diff(old, new)` to `old`, in order, yields `new`; and on the way no
//! port, uplink or patch is ever on a relay that is not there. Start is the same as a reload from
//! the empty configuration. Other rules (one uplink per relay, one port per socket) hold again only
//! after the last step, as when two ports swap their sockets.
//!
//! Does not know: how any change is carried out.

use std::collections::BTreeMap;

use super::model::{Attachment, Config, Daemon, End, Link, Patch, Port, Relay, Uplink};
use crate::relay::{PortConfig, RelayConfig};

/// What a change costs those who are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// Nobody notices but by what the change is about.
    Live,
    /// What was offered to the peer or the way to reach it changes: the link goes down and up.
    Reconnect,
    /// Only a new process can do it.
    Restart,
}

/// One step from a configuration to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The process itself.
    Daemon(Update<Daemon>),
    /// A relay.
    Relay(String, Step<Relay>),
    /// A local port.
    Port(String, Step<Port>),
    /// An uplink.
    Uplink(String, Step<Uplink>),
    /// A patch.
    Patch(String, Step<Patch>),
}

/// What happens to something that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// It is new.
    Add(T),
    /// It goes.
    Remove,
    /// It stays and changes.
    Update(Update<T>),
}

/// A change of something that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update<T> {
    /// What it becomes.
    pub to: T,
    /// The words that changed, as the user writes them.
    pub words: Vec<&'static str>,
    /// What that costs.
    pub impact: Impact,
}

impl Config {
    /// The steps from `old` to `new`. First all goes that has to, what joins a relay before the
    /// relay; then relays change and come, then what joins them.
    pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(gone(&old.patches, &new.patches, Change::Patch));
        changes.extend(gone(&old.uplinks, &new.uplinks, Change::Uplink));
        changes.extend(gone(&old.ports, &new.ports, Change::Port));
        changes.extend(update(&old.daemon, &new.daemon).map(Change::Daemon));
        changes.extend(come(&old.relays, &new.relays, Change::Relay));
        changes.extend(come(&old.ports, &new.ports, Change::Port));
        changes.extend(come(&old.uplinks, &new.uplinks, Change::Uplink));
        changes.extend(come(&old.patches, &new.patches, Change::Patch));
        changes.extend(gone(&old.relays, &new.relays, Change::Relay));
        changes
    }

    /// Takes one step.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Daemon(update) => self.daemon = update.to,
            Change::Relay(name, step) => take(&mut self.relays, name, step),
            Change::Port(name, step) => take(&mut self.ports, name, step),
            Change::Uplink(name, step) => take(&mut self.uplinks, name, step),
            Change::Patch(name, step) => take(&mut self.patches, name, step),
        }
    }
}

impl Change {
    /// What the change costs. Something that comes or goes costs only itself.
    pub fn impact(&self) -> Impact {
        match self {
            Change::Daemon(update) => update.impact,
            Change::Relay(_, step) => step.impact(),
            Change::Port(_, step) => step.impact(),
            Change::Uplink(_, step) => step.impact(),
            Change::Patch(_, step) => step.impact(),
        }
    }
}

impl<T> Step<T> {
    fn impact(&self) -> Impact {
        match self {
            Step::Add(_) | Step::Remove => Impact::Live,
            Step::Update(update) => update.impact,
        }
    }
}

fn take<T>(map: &mut BTreeMap<String, T>, name: String, step: Step<T>) {
    match step {
        Step::Add(to) | Step::Update(Update { to, .. }) => {
            map.insert(name, to);
        }
        Step::Remove => {
            map.remove(&name);
        }
    }
}

fn gone<T>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    change: impl Fn(String, Step<T>) -> Change,
) -> impl Iterator<Item = Change> {
    old.keys()
        .filter(|name| !new.contains_key(*name))
        .map(move |name| change(name.clone(), Step::Remove))
}

fn come<T: Parts>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    change: impl Fn(String, Step<T>) -> Change,
) -> impl Iterator<Item = Change> {
    new.iter().filter_map(move |(name, to)| {
        let step = match old.get(name) {
            None => Step::Add(to.clone()),
            Some(from) => Step::Update(update(from, to)?),
        };
        Some(change(name.clone(), step))
    })
}

fn update<T: Parts>(from: &T, to: &T) -> Option<Update<T>> {
    if from == to {
        return None;
    }
    let mut words = Words::default();
    T::compare(from, to, &mut words);
    Some(Update {
        to: to.clone(),
        words: words.words,
        impact: words.impact.unwrap_or(Impact::Live),
    })
}

/// The words that differ.
#[derive(Default)]
struct Words {
    words: Vec<&'static str>,
    impact: Option<Impact>,
}

impl Words {
    fn note(&mut self, word: &'static str, differs: bool, impact: Impact) {
        if differs && !self.words.contains(&word) {
            self.words.push(word);
            self.impact = self.impact.max(Some(impact));
        }
    }
}

/// Something whose changes can be named.
trait Parts: Clone + PartialEq {
    fn compare(from: &Self, to: &Self, words: &mut Words);
}

/// Notes the fields that differ. The types are taken apart by name, so that a new field is not
/// forgotten.
macro_rules! compare {
    ($words:ident, $type:ident, $from:ident, $to:ident, { $($field:ident => $word:literal, $impact:ident;)* } $(and $other:ident)*) => {
        let $type { $($field: _,)* $($other: _,)* } = $from;
        $($words.note($word, $from.$field != $to.$field, Impact::$impact);)*
    };
}

impl Parts for Daemon {
    fn compare(from: &Self, to: &Self, words: &mut Words) {
        compare!(words, Daemon, from, to, {
            control => "control", Restart;
            state => "state", Restart;
            workers => "workers", Restart;
            cpus => "cpus", Restart;
            poll => "poll", Restart;
            rx_wait => "rx_wait_us", Restart;
            cool => "cool_us", Restart;
        });
    }
}

impl Parts for Relay {
    fn compare(from: &Self, to: &Self, words: &mut Words) {
        compare!(words, Relay, from, to, { statics => "static", Live; } and settings);
        let (from, to) = (&from.settings, &to.settings);
        compare!(words, RelayConfig, from, to, {
            ageing => "ageing", Live;
            reflect_local => "reflect", Live;
            multicast => "multicast", Live;
            group_fwd_mask => "group_fwd_mask", Live;
            fids => "fid", Live;
            max_entries => "max_entries", Live;
        });
    }
}

impl Parts for Port {
    fn compare(from: &Self, to: &Self, words: &mut Words) {
        compare!(words, Port, from, to, {
            relay => "relay", Live;
            backend => "backend", Reconnect;
            queues => "queues", Reconnect;
            worker => "worker", Live;
        } and settings);
        // VIRTIO_NET_F_MTU was offered with the old value.
        words.note(
            "mtu",
            from.settings.mtu != to.settings.mtu,
            Impact::Reconnect,
        );
        settings(&from.settings, &to.settings, words);
    }
}

impl Parts for Uplink {
    fn compare(from: &Self, to: &Self, words: &mut Words) {
        compare!(words, Uplink, from, to, {
            relay => "relay", Live;
            worker => "worker", Live;
        } and attachment and settings);
        attachment(&from.attachment, &to.attachment, words);
        words.note(
            "mtu",
            from.settings.mtu != to.settings.mtu,
            Impact::Reconnect,
        );
        settings(&from.settings, &to.settings, words);
    }
}

impl Parts for Patch {
    fn compare(from: &Self, to: &Self, words: &mut Words) {
        for (from, to) in [(&from.a, &to.a), (&from.b, &to.b)] {
            compare!(words, End, from, to, { relay => "relay", Live; } and settings);
            settings(&from.settings, &to.settings, words);
        }
    }
}

fn attachment(from: &Attachment, to: &Attachment, words: &mut Words) {
    match (from, to) {
        (Attachment::Single(from), Attachment::Single(to)) => {
            compare!(words, Link, from, to, {
                kind => "attachment", Reconnect;
                queues => "queues", Reconnect;
                take_parent => "take_parent", Live;
            });
        }
        (from, to) => words.note("bond", from != to, Impact::Reconnect),
    }
}

fn settings(from: &PortConfig, to: &PortConfig, words: &mut Words) {
    compare!(words, PortConfig, from, to, {
        role => "uplink", Live;
        mode => "mode", Live;
        vlan => "vlan", Live;
        macs => "mac", Live;
        mac_policy => "mac_policy", Live;
        flood_unknown => "flood_unknown", Live;
        promiscuous => "promiscuous", Live;
        reflective => "reflective", Live;
        accept_own_src => "accept_own_src", Live;
        mtu => "mtu", Live;
        default_pcp => "default_pcp", Live;
        groups => "join", Live;
        multicast_router => "multicast_router", Live;
        standby => "standby", Reconnect;
    });
}
