//! `[[relay]]`: its own settings and, once its ports are known, its static addresses.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Seat;
use super::vlan::vid_set;
use super::words::{Faults, check_name, choice, flag, number, place, station, unknown, vid};
use crate::config::file::{RelayTable, StaticTable, VidItem, Word, Words};
use crate::config::model::{Relay, StaticEntry};
use crate::config::read::Broken;
use crate::config::report::{Fault, Span, suggest};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::relay::{
    DEFAULT_AGEING, DEFAULT_MAX_ENTRIES, Multicast, RelayConfig, VidSet, VlanConfig,
};

/// FDB entries that a daemon is planned for.
const ENTRIES_MAX: i64 = 1_048_576;
/// Seconds: the longest ageing time of 802.1Q 8.8.3.
const AGEING_MAX: i64 = 1_000_000;
/// Bit of `group_fwd_mask` for 01:80:c2:00:00:01, pause frames.
const PAUSE_BIT: i64 = 1 << 1;

/// A relay whose ports are not known yet.
#[derive(Debug)]
pub struct Draft {
    pub at: Span,
    pub nested_reflect: bool,
    pub settings: RelayConfig,
    pub marks: RelayMarks,
    fixed: Words<StaticTable>,
}

/// Where the words of a relay stand that its ports may contradict.
#[derive(Debug)]
pub struct RelayMarks {
    pub ageing: Option<Span>,
    pub reflect: Option<Span>,
    pub multicast: Option<Span>,
    pub group_fwd_mask: Option<Span>,
    pub fid: Option<Span>,
}

/// The relays that are declared.
#[derive(Debug, Default)]
pub struct Relays {
    pub drafts: BTreeMap<String, Draft>,
    /// Names of those that could not be read; whoever mentions them is not to blame.
    broken: Vec<String>,
    nameless: bool,
}

impl Relays {
    /// Reads all relays.
    pub fn read(tables: &[Spanned<RelayTable>], broken: &Broken, faults: &mut Faults) -> Relays {
        let mut relays = Relays {
            drafts: BTreeMap::new(),
            broken: broken.names("relay"),
            nameless: broken.any("relay") && broken.names("relay").is_empty(),
        };
        for table in tables {
            let draft = read_one(table.get_ref(), table.span(), faults);
            let Some(name) = &table.get_ref().name else {
                relays.nameless = true;
                faults.push(
                    Fault::at(table.span(), "a relay needs a name").help("add `name = \"blue\"`"),
                );
                continue;
            };
            check_name(name.get_ref(), "relay", name.span(), faults);
            if let Some(first) = relays.drafts.get(name.get_ref()) {
                faults.push(
                    Fault::at(
                        name.span(),
                        format!("two relays are named `{}`", name.get_ref()),
                    )
                    .with(first.at.clone(), "the first")
                    .help("give one of them another name"),
                );
            } else {
                relays.drafts.insert(
                    name.get_ref().clone(),
                    Draft {
                        at: name.span(),
                        ..draft
                    },
                );
            }
        }
        relays
    }

    /// The relay that something joins: the one it names or, where there is only one, that one.
    pub fn resolve(
        &self,
        kind: &str,
        name: &str,
        word: &Word<String>,
        at: &Span,
        faults: &mut Faults,
    ) -> Option<String> {
        let known = || self.drafts.keys().chain(&self.broken).map(String::as_str);
        if let Some(word) = word {
            let relay = word.get_ref();
            if self.drafts.contains_key(relay) {
                return Some(relay.clone());
            }
            if !self.nameless && !self.broken.contains(relay) {
                faults.push(unknown("relay", relay, word.span(), known()));
            }
            return None;
        }
        if self.nameless {
            return None;
        }
        let who = if name.is_empty() {
            format!("this {kind}")
        } else {
            format!("{kind} `{name}`")
        };
        let mut names = known();
        match (names.next(), names.next()) {
            (Some(only), None) => {
                return self.drafts.contains_key(only).then(|| only.to_owned());
            }
            (Some(_), Some(_)) => {
                let names: Vec<&str> = known().take(8).collect();
                faults.push(
                    Fault::at(
                        at.clone(),
                        format!("{who} does not say which relay it joins"),
                    )
                    .help(format!(
                        "add `relay = \"…\"`; there are `{}`",
                        names.join("`, `")
                    )),
                );
            }
            (None, _) => faults.push(
                Fault::at(at.clone(), format!("there is no relay for {who} to join"))
                    .help("declare one: `[[relay]]` with `name = \"blue\"`"),
            ),
        }
        None
    }
}

fn read_one(table: &RelayTable, at: Span, faults: &mut Faults) -> Draft {
    let reflect = [("off", false), ("local", true)];
    let mask = number(&table.group_fwd_mask, "group_fwd_mask", 0..=0xffff, faults).unwrap_or(0);
    if let (Some(word), true) = (&table.group_fwd_mask, i64::from(mask) & PAUSE_BIT != 0) {
        faults.push(
            Fault::at(word.span(), "`group_fwd_mask` cannot open bit 1").help(format!(
                "pause frames end at the next port; write {:#x}",
                i64::from(mask) & !PAUSE_BIT
            )),
        );
    }
    let settings = RelayConfig {
        ageing: number(&table.ageing, "ageing", 0..=AGEING_MAX, faults).unwrap_or(DEFAULT_AGEING),
        reflect_local: choice(&table.reflect, "reflect", &reflect, faults).unwrap_or(false),
        multicast: multicast(table, faults),
        group_fwd_mask: mask,
        fids: fids(&table.fid, faults),
        max_entries: number(&table.max_entries, "max_entries", 1..=ENTRIES_MAX, faults)
            .unwrap_or(DEFAULT_MAX_ENTRIES),
    };
    let nested_reflect = flag(&table.nested_reflect).unwrap_or(false);
    room(table, settings.max_entries, faults);
    Draft {
        at,
        nested_reflect,
        settings,
        marks: RelayMarks {
            ageing: place(&table.ageing),
            reflect: place(&table.reflect),
            multicast: place(&table.multicast),
            group_fwd_mask: place(&table.group_fwd_mask),
            fid: place(&table.fid),
        },
        fixed: table.fixed.clone(),
    }
}

/// The table of addresses holds those that are in it from the start.
fn room(table: &RelayTable, most: u32, faults: &mut Faults) {
    let Some(list) = &table.fixed else { return };
    let count = list.get_ref().len();
    if count <= most as usize {
        return;
    }
    let mut fault = Fault::at(
        list.span(),
        format!("{count} static addresses, and room for {most}"),
    );
    if let Some(at) = place(&table.max_entries) {
        fault = fault.with(at, "the room");
    }
    faults.push(fault.help(format!(
        "raise `max_entries`: to {count}, and more for addresses that are learned"
    )));
}

fn multicast(table: &RelayTable, faults: &mut Faults) -> Multicast {
    let open = flag(&table.flood_unregistered);
    let word = table.multicast.as_ref();
    if let Some(word) = word.filter(|word| word.get_ref() == "snoop") {
        faults.push(
            Fault::at(word.span(), "multicast snooping is not available yet")
                .help("write \"flood\", or \"groups\" and list what each port joins in its `join`"),
        );
        return Multicast::Flood;
    }
    let options = [("flood", false), ("groups", true)];
    if choice(&table.multicast, "multicast", &options, faults) == Some(true) {
        return Multicast::Groups {
            flood_unregistered: open.unwrap_or(true),
        };
    }
    if let Some(at) = place(&table.flood_unregistered) {
        faults.push(
            Fault::at(
                at,
                "`flood_unregistered` goes with `multicast = \"groups\"`",
            )
            .help("with \"flood\" every port receives every group; leave it out"),
        );
    }
    Multicast::Flood
}

fn fids(words: &Words<Vec<Spanned<VidItem>>>, faults: &mut Faults) -> Vec<VidSet> {
    let mut sets: Vec<(VidSet, Span)> = Vec::new();
    for item in words.iter().flat_map(Spanned::get_ref) {
        let set = vid_set(item.get_ref(), faults);
        let shared = sets
            .iter()
            .find_map(|(other, at)| Some((set.iter().find(|vid| other.contains(*vid))?, at)));
        if let Some((vid, first)) = shared {
            faults.push(
                Fault::at(item.span(), format!("VID {vid} is in two `fid` sets"))
                    .with(first.clone(), "the other one")
                    .help("join the two sets, or take the VID out of one"),
            );
        } else {
            sets.push((set, item.span()));
        }
    }
    sets.into_iter().map(|(set, _)| set).collect()
}

impl Draft {
    /// Whether it lists static addresses.
    pub fn has_statics(&self) -> bool {
        self.fixed
            .as_ref()
            .is_some_and(|list| !list.get_ref().is_empty())
    }

    /// Adds the static addresses, which name ports.
    pub fn finish(self, seats: &[&Seat], incomplete: bool, faults: &mut Faults) -> Relay {
        let fids = Fids::new(&self.settings.fids);
        let flat = seats.iter().all(|seat| seat.marks.vlan.is_none());
        let mut statics: Vec<StaticEntry> = Vec::new();
        let mut taken: BTreeMap<(Mac, Option<u16>), Span> = BTreeMap::new();
        for item in self.fixed.iter().flat_map(Spanned::get_ref) {
            let Some((entry, mac_at)) = static_entry(item, flat, seats, incomplete, faults) else {
                continue;
            };
            let owner = seats.iter().find(|seat| {
                seat.name != entry.port
                    && seat.settings.macs.contains(&entry.mac)
                    && entry
                        .vid
                        .is_none_or(|vid| fids.overlap(&seat.settings.vlan, vid))
            });
            if let Some(owner) = owner {
                faults.push(
                    Fault::at(
                        mac_at,
                        format!("{} is registered on another port", entry.mac),
                    )
                    .with(owner.at.clone(), "this one")
                    .help("an address has one place: leave one of them out"),
                );
                continue;
            }
            let key = (entry.mac, entry.vid.map(|vid| fids.canonical(vid)));
            if let Some(first) = taken.insert(key, mac_at.clone()) {
                faults.push(
                    Fault::at(mac_at, format!("{} is in the list twice", entry.mac))
                        .with(first, "the first")
                        .help("an address has one place: leave one of them out"),
                );
                continue;
            }
            statics.push(entry);
        }
        statics.sort_by_key(|entry| (entry.mac, entry.vid));
        Relay {
            settings: self.settings,
            statics,
        }
    }
}

fn static_entry(
    item: &Spanned<StaticTable>,
    flat: bool,
    seats: &[&Seat],
    incomplete: bool,
    faults: &mut Faults,
) -> Option<(StaticEntry, Span)> {
    let table = item.get_ref();
    let (Some(mac), Some(port)) = (&table.mac, &table.port) else {
        faults.push(
            Fault::at(item.span(), "a static address needs `mac` and `port`")
                .help("write `{ mac = \"52:54:00:00:00:01\", vid = 10, port = \"vm1\" }`"),
        );
        return None;
    };
    let at = mac.span();
    let mac = station(mac.get_ref(), at.clone(), faults)?;
    let Some(seat) = seats.iter().find(|seat| seat.name == *port.get_ref()) else {
        if !incomplete {
            let hint = suggest(port.get_ref(), seats.iter().map(|seat| seat.name.as_str()));
            faults.push(
                Fault::at(
                    port.span(),
                    format!("this relay has no port `{}`", port.get_ref()),
                )
                .help(hint.unwrap_or_else(|| {
                    "a static address is behind a port of its own relay".to_owned()
                })),
            );
        }
        return None;
    };
    let vid = match &table.vid {
        Some(word) if flat => {
            if !incomplete {
                faults.push(
                    Fault::at(word.span(), "a relay without VLANs has no VIDs")
                        .help("leave `vid` out, or give its ports VLAN keys"),
                );
            }
            return None;
        }
        Some(word) => Some(vid(*word.get_ref(), word.span(), faults)?),
        None if flat => None,
        None => {
            faults.push(
                Fault::at(
                    item.span(),
                    "a static address of a relay with VLANs needs a `vid`",
                )
                .help("add `vid = 10`"),
            );
            return None;
        }
    };
    if let Some(vid) = vid.filter(|vid| !member(&seat.settings.vlan, *vid)) {
        faults.push(
            Fault::at(
                place(&table.vid).unwrap_or(at),
                format!("port `{}` is not in VLAN {vid}", seat.name),
            )
            .with(
                seat.marks.vlan.clone().unwrap_or_else(|| seat.at.clone()),
                "its VLANs",
            )
            .help("a static address is in a VLAN of its port"),
        );
        return None;
    }
    Some((
        StaticEntry {
            mac,
            vid,
            port: port.get_ref().clone(),
        },
        at,
    ))
}

/// Whether a port with these VLAN words is in VLAN `vid`. Without words it is in all.
pub fn member(vlan: &VlanConfig, vid: Vid) -> bool {
    match vlan {
        VlanConfig::Flat => true,
        VlanConfig::Access(own) | VlanConfig::Qinq(own) => *own == vid,
        VlanConfig::Trunk { vids, native } => vids.contains(vid) || *native == Some(vid),
        VlanConfig::Translate(pairs) => pairs.values().any(|own| *own == vid),
    }
}

/// Which VLANs learn together.
pub struct Fids<'a>(&'a [VidSet]);

impl<'a> Fids<'a> {
    pub fn new(sets: &'a [VidSet]) -> Fids<'a> {
        Fids(sets)
    }

    /// One VID that stands for all that learn together with `vid`.
    pub fn canonical(&self, vid: Vid) -> u16 {
        let set = self.0.iter().find(|set| set.contains(vid));
        set.and_then(|set| set.iter().next()).unwrap_or(vid).get()
    }

    /// Whether a port with these VLAN words is in a VLAN that learns together with `vid`.
    pub fn overlap(&self, vlan: &VlanConfig, vid: Vid) -> bool {
        match self.0.iter().find(|set| set.contains(vid)) {
            None => member(vlan, vid),
            Some(set) => set.iter().any(|vid| member(vlan, vid)),
        }
    }

    /// A VLAN in which ports with these VLAN words would meet.
    pub fn common(&self, a: &VlanConfig, b: &VlanConfig) -> Option<Vid> {
        (1..=Vid::MAX)
            .filter_map(Vid::new)
            .find(|vid| member(a, *vid) && self.overlap(b, *vid))
    }
}
