//! `[[uplink]]`: links to the outside, and bonds of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;

use super::port::{QUEUES_MAX, QUEUES_OF_DEVICE, QUEUES_OF_VM, one_of};
use super::settings::{Marks, default_pcp, mtu};
use super::sriov::sriov;
use super::tap::{self, Device};
use super::vlan::VlanWords;
use super::words::{
    Faults, check_device, check_name, choice, device, flag, number, place, socket, unknown, worker,
};
use super::{Claims, Plug, Seat, Surroundings};
use crate::config::file::{MacvtapTable, SriovTable, TapTable, UplinkTable, Word};
use crate::config::model::{Attachment, Link, LinkKind, MacvtapMode, Member, Uplink};
use crate::config::report::{Fault, Span};
use crate::relay::PortConfig;
use crate::uplink::{ALL_QUEUES, MAX_QUEUES};

/// Links in one bond.
const BOND_MAX: usize = 8;

/// The links that bonds may take, and those that they took.
#[derive(Default)]
struct Links {
    /// By name, each with the place where it says that it shares its NIC.
    links: BTreeMap<String, (Link, Option<Span>)>,
    /// Names that bonds list, and where.
    owners: BTreeMap<String, Span>,
}

/// Reads all uplinks.
pub fn read(
    tables: &[Spanned<UplinkTable>],
    around: &Surroundings<'_>,
    claims: &mut Claims,
    faults: &mut Faults,
) -> (Vec<Seat>, BTreeMap<String, Uplink>) {
    let mut links = Links::default();
    for table in tables {
        links.note_members(table.get_ref(), faults);
    }
    let mut bonds = Vec::new();
    let mut uplinks = Vec::new();
    for table in tables {
        let uplink = table.get_ref();
        let at = place(&uplink.name).unwrap_or_else(|| table.span());
        let name = uplink.name.as_ref().map(|name| name.get_ref().clone());
        if let Some(name) = &name {
            check_name(name, "uplink", at.clone(), faults);
            claims.name(name, "uplink", &at, faults);
        } else {
            faults
                .push(Fault::at(at.clone(), "an uplink needs a name").help("add `name = \"up0\"`"));
        }
        let name = name.unwrap_or_default();
        one_kind(uplink, &table.span(), faults);
        let link = link(uplink, claims, faults);
        if let Some(owner) = links.owners.get(&name) {
            member_words(uplink, owner, faults);
            if let Some(link) = link {
                links.links.insert(name, link);
            }
        } else if uplink.bond.is_some() {
            bond_words(uplink, faults);
            bonds.push(Head {
                name,
                at,
                table: uplink,
            });
        } else {
            uplinks.push((
                Head {
                    name,
                    at,
                    table: uplink,
                },
                link,
            ));
        }
    }
    let mut out = (Vec::new(), BTreeMap::new());
    for (head, link) in uplinks {
        let shared = link.as_ref().and_then(|(_, shared)| shared.clone());
        let attachment = link.map(|(link, _)| Attachment::Single(link));
        claims.lost |= !seat(head, attachment, shared, around, faults, &mut out);
    }
    for head in bonds {
        let (members, shared) = links.take(head.table, tables, around, faults);
        let attachment = Some(Attachment::Bond(members));
        claims.lost |= !seat(head, attachment, shared, around, faults, &mut out);
    }
    out
}

/// An uplink whose relay is not looked up yet.
struct Head<'a> {
    name: String,
    at: Span,
    table: &'a UplinkTable,
}

/// Adds the uplink, unless its relay is not known.
fn seat(
    Head { name, at, table }: Head<'_>,
    attachment: Option<Attachment>,
    shared: Option<Span>,
    around: &Surroundings<'_>,
    faults: &mut Faults,
    out: &mut (Vec<Seat>, BTreeMap<String, Uplink>),
) -> bool {
    let relay = around
        .relays
        .resolve("uplink", &name, &table.relay, &at, faults);
    let words = VlanWords::from(table);
    let vlan = words.read(faults);
    let reflective = flag(&table.reflective);
    let mut settings = PortConfig::uplink(vlan, false);
    settings.mtu = mtu(&table.mtu, faults);
    settings.default_pcp = default_pcp(&table.default_pcp, faults);
    let worker = worker(&table.worker, around.workers, faults);
    let Some(relay) = relay else { return false };
    settings.reflective = reflective.unwrap_or_else(|| around.has_vepa(&relay));
    out.0.push(Seat {
        name: name.clone(),
        at,
        relay: relay.clone(),
        settings: settings.clone(),
        marks: Marks {
            vlan: words.place(),
            reflective: place(&table.reflective),
            ..Marks::default()
        },
        plug: Plug::Outside { shared },
    });
    if let Some(attachment) = attachment {
        out.1.insert(
            name,
            Uplink {
                relay,
                attachment,
                worker,
                settings,
            },
        );
    }
    true
}

impl Links {
    fn note_members(&mut self, bond: &UplinkTable, faults: &mut Faults) {
        for word in bond.bond.iter().flat_map(Spanned::get_ref) {
            if let Some(first) = self.owners.insert(word.get_ref().clone(), word.span()) {
                faults.push(
                    Fault::at(word.span(), format!("`{}` is bonded twice", word.get_ref()))
                        .with(first, "first here")
                        .help("a link belongs to one bond, once"),
                );
            }
        }
    }

    fn take(
        &mut self,
        bond: &UplinkTable,
        tables: &[Spanned<UplinkTable>],
        around: &Surroundings<'_>,
        faults: &mut Faults,
    ) -> (Vec<Member>, Option<Span>) {
        let mut members = Vec::new();
        let mut shared = None;
        for word in bond.bond.iter().flat_map(Spanned::get_ref) {
            let name = word.get_ref();
            if let Some((link, span)) = self.links.remove(name) {
                shared = shared.or(span);
                members.push(Member {
                    name: name.clone(),
                    link,
                });
                continue;
            }
            let mut names = tables
                .iter()
                .filter_map(|table| table.get_ref().name.as_ref());
            if !names.any(|known| known.get_ref() == name) && !around.broken.any("uplink") {
                let known = tables
                    .iter()
                    .map(Spanned::get_ref)
                    .filter(|table| table.bond.is_none())
                    .filter_map(|table| Some(table.name.as_ref()?.get_ref().as_str()));
                faults.push(unknown("uplink", name, word.span(), known));
            }
        }
        (members, shared)
    }
}

/// Words that a member of a bond leaves to the bond.
fn member_words(table: &UplinkTable, owner: &Span, faults: &mut Faults) {
    let words = [
        ("relay", place(&table.relay)),
        ("access", place(&table.access)),
        ("trunk", place(&table.trunk)),
        ("native", place(&table.native)),
        ("qinq", place(&table.qinq)),
        ("translate", place(&table.translate)),
        ("mtu", place(&table.mtu)),
        ("reflective", place(&table.reflective)),
        ("default_pcp", place(&table.default_pcp)),
        ("worker", place(&table.worker)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        faults.push(
            Fault::at(at, format!("`{key}` belongs to the bond"))
                .with(owner.clone(), "this link is bonded here")
                .help("move it to the `[[uplink]]` that has `bond`"),
        );
    }
    let sockets = [place(&table.listen), place(&table.connect)];
    for at in sockets.into_iter().flatten() {
        faults.push(
            Fault::at(
                at,
                "a vhost-user socket has no carrier and cannot be bonded",
            )
            .with(owner.clone(), "this link is bonded here")
            .help("bond devices: tap, macvtap, af_packet, af_xdp or sriov"),
        );
    }
    if let Some(at) = place(&table.bond) {
        faults.push(
            Fault::at(at, "a bond cannot be bonded")
                .with(owner.clone(), "it is bonded here")
                .help("list its links in one `bond`"),
        );
    }
}

/// Words that a bond leaves to its members.
fn bond_words(table: &UplinkTable, faults: &mut Faults) {
    let words = [
        ("queues", place(&table.queues)),
        ("take_parent", place(&table.take_parent)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        faults.push(
            Fault::at(at, format!("`{key}` belongs to the links of a bond"))
                .help("move it to the `[[uplink]]` tables that the bond lists"),
        );
    }
    let Some(list) = &table.bond else { return };
    if !(1..=BOND_MAX).contains(&list.get_ref().len()) {
        faults.push(
            Fault::at(list.span(), format!("a bond has 1 to {BOND_MAX} links"))
                .help("list names of other `[[uplink]]` tables: `bond = [\"up0a\", \"up0b\"]`"),
        );
    }
}

fn one_kind(table: &UplinkTable, at: &Span, faults: &mut Faults) {
    let words = [
        ("listen", place(&table.listen)),
        ("connect", place(&table.connect)),
        ("tap", place(&table.tap)),
        ("macvtap", place(&table.macvtap)),
        ("af_packet", place(&table.af_packet)),
        ("af_xdp", place(&table.af_xdp)),
        ("sriov", place(&table.sriov)),
        ("bond", place(&table.bond)),
    ];
    one_of(&words, "uplink", at, faults);
}

/// The link, and where it says that it shares its NIC.
fn link(
    table: &UplinkTable,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<(Link, Option<Span>)> {
    if table.bond.is_some() {
        return None;
    }
    let mut shared = None;
    let mut inner_queues = None;
    let mut mine = |word: &Word<i64>, key: &'static str| inner_queues = Some((word.clone(), key));
    let kind = if let Some(word) = &table.listen {
        socket_of(word, claims, faults).map(LinkKind::Listen)
    } else if let Some(word) = &table.connect {
        socket_of(word, claims, faults).map(LinkKind::Connect)
    } else if table.tap.is_some() {
        tap_of(&table.tap, claims, faults)
    } else if let Some(word) = &table.macvtap {
        mine(&word.get_ref().queues, "macvtap");
        let mode = macvtap_mode(&word.get_ref().mode, faults);
        if mode != MacvtapMode::Passthru {
            shared = place(&word.get_ref().mode);
        }
        macvtap_of(word, mode, claims, faults)
    } else if let Some(word) = &table.af_packet {
        mine(&word.get_ref().queues, "af_packet");
        nic(&word.get_ref().dev, &word.span(), claims, faults).map(|dev| LinkKind::AfPacket { dev })
    } else if let Some(word) = &table.af_xdp {
        mine(&word.get_ref().queues, "af_xdp");
        nic(&word.get_ref().dev, &word.span(), claims, faults).map(|dev| LinkKind::AfXdp { dev })
    } else if let Some(word) = &table.sriov {
        mine(&word.get_ref().queues, "sriov");
        if let Some(vlan) = word
            .get_ref()
            .vlan
            .as_ref()
            .filter(|vlan| *vlan.get_ref() != 0)
        {
            one_tagger(vlan, table, faults);
        }
        sriov(word, claims, faults).map(LinkKind::Sriov)
    } else {
        None
    };
    let queues = match &kind {
        Some(LinkKind::Handed(_)) if table.tap.is_some() => {
            tap::queues(&table.queues, table.tap.as_ref(), faults)
        }
        Some(LinkKind::Handed(handed)) => {
            queues(table, inner_queues, faults);
            handed.descriptors.len() as u16
        }
        _ => queues(table, inner_queues, faults),
    };
    let take_parent = take_parent(table, faults);
    let link = Link {
        kind: kind?,
        queues,
        take_parent,
    };
    Some((link, shared))
}

fn tap_of(word: &Word<TapTable>, claims: &mut Claims, faults: &mut Faults) -> Option<LinkKind> {
    let table = word.as_ref()?;
    tap::named(table, faults);
    let mac = tap::mac(table.get_ref(), faults).map(|(mac, _)| mac);
    match tap::device(table, mac, str::to_owned, claims, faults)? {
        Device::Named(tap) => Some(LinkKind::Tap(tap)),
        Device::Handed(handed) => Some(LinkKind::Handed(handed)),
    }
}

fn macvtap_of(
    word: &Spanned<MacvtapTable>,
    mode: MacvtapMode,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<LinkKind> {
    let table = word.get_ref();
    if let Some(fd) = &table.fd {
        return tap::macvtap(table, fd, mode, claims, faults).map(LinkKind::Handed);
    }
    if let Some(word) = &table.name {
        return found(word, table, mode, claims, faults);
    }
    let parent = device(&table.parent, "parent", &word.span(), faults)?;
    let at = place(&table.parent).unwrap_or_else(|| word.span());
    claims.device(&parent, &at, mode == MacvtapMode::Passthru, faults);
    Some(LinkKind::Macvtap { parent, mode })
}

/// A MACVTAP device that is there: its parent is known, and may be stated.
fn found(
    word: &Spanned<String>,
    table: &MacvtapTable,
    mode: MacvtapMode,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<LinkKind> {
    let name = word.get_ref();
    let mut good = check_device(name, word.span(), faults);
    claims.device(name, &word.span(), true, faults);
    if let Some(parent) = &table.parent {
        good &= check_device(parent.get_ref(), parent.span(), faults);
        let alone = mode == MacvtapMode::Passthru;
        claims.device(parent.get_ref(), &parent.span(), alone, faults);
    }
    let parent = table.parent.as_ref().map(|word| word.get_ref().clone());
    let name = name.clone();
    good.then_some(LinkKind::Found { name, parent, mode })
}

fn socket_of(word: &Spanned<String>, claims: &mut Claims, faults: &mut Faults) -> Option<PathBuf> {
    let path = socket(word.get_ref(), word.span(), faults)?;
    claims.socket(&path, &word.span(), faults);
    Some(path)
}

fn nic(
    word: &Word<String>,
    table: &Span,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<String> {
    let dev = device(word, "dev", table, faults)?;
    let at = place(word).unwrap_or_else(|| table.clone());
    claims.device(&dev, &at, true, faults);
    Some(dev)
}

fn macvtap_mode(word: &Word<String>, faults: &mut Faults) -> MacvtapMode {
    let options = [
        ("passthru", MacvtapMode::Passthru),
        ("bridge", MacvtapMode::Bridge),
        ("vepa", MacvtapMode::Vepa),
        ("private", MacvtapMode::Private),
    ];
    choice(word, "mode", &options, faults).unwrap_or(MacvtapMode::Passthru)
}

/// A NIC that tags all frames of a virtual function leaves no tags to the uplink.
fn one_tagger(vlan: &Spanned<i64>, table: &UplinkTable, faults: &mut Faults) {
    let words = [
        ("trunk", place(&table.trunk)),
        ("qinq", place(&table.qinq)),
        ("translate", place(&table.translate)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        faults.push(
            Fault::at(at, format!("`{key}` would put tags on tags"))
                .with(vlan.span(), "the NIC tags all frames of this VF")
                .help(format!(
                    "leave `vlan` out, or make the uplink `access = {}`",
                    vlan.get_ref()
                )),
        );
    }
}

/// Links that have a table of their own have `queues` in it.
fn queues(
    table: &UplinkTable,
    inner: Option<(Word<i64>, &'static str)>,
    faults: &mut Faults,
) -> u16 {
    let word = match inner {
        Some((inner, key)) => {
            if let Some(at) = place(&table.queues) {
                faults.push(
                    Fault::at(at, format!("`queues` of this uplink belong into `{key}`"))
                        .help(format!("write `{key} = {{ …, queues = 4 }}`")),
                );
            }
            inner
        }
        None => table.queues.clone(),
    };
    let of_vm = table.listen.is_some() || table.connect.is_some();
    let via = |sriov: &Spanned<SriovTable>| sriov.get_ref().via.clone();
    let via = table.sriov.as_ref().and_then(via);
    let of_nic = table.af_xdp.is_some() || via.is_some_and(|via| via.get_ref() == "af_xdp");
    // Frames in queues without a socket would be lost.
    let (most, by_default) = match (of_vm, of_nic) {
        (true, _) => (QUEUES_MAX, QUEUES_OF_VM),
        (_, true) => (MAX_QUEUES.into(), ALL_QUEUES),
        _ => (QUEUES_MAX, QUEUES_OF_DEVICE),
    };
    number(&word, "queues", 1..=most, faults).unwrap_or(by_default)
}

fn take_parent(table: &UplinkTable, faults: &mut Faults) -> bool {
    let made = |macvtap: &Spanned<MacvtapTable>| {
        let table = macvtap.get_ref();
        table.fd.is_none() && table.name.is_none()
    };
    let nic = table.macvtap.as_ref().is_some_and(made)
        || table.af_packet.is_some()
        || table.af_xdp.is_some()
        || table.sriov.is_some();
    if let (Some(at), false) = (place(&table.take_parent), nic) {
        faults
            .push(Fault::at(at, "there is no NIC to take").help(
                "`take_parent` goes with a macvtap that evb makes, af_packet, af_xdp and sriov; leave it out",
            ));
    }
    flag(&table.take_parent).unwrap_or(false)
}
