//! `[[port]]` and `[[group]]`: a port takes from its group what it does not say itself, and a
//! template becomes many ports.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::load;
use super::settings::{Marks, of_port};
use super::tap::{self, Device};
use super::words::{Faults, check_name, number, place, socket, unknown, worker};
use super::{Claims, Plug, Relays, Seat};
use crate::config::file::PortTable;
use crate::config::model::{Backend, Generator, Port};
use crate::config::read::Broken;
use crate::config::report::{Fault, Span};
use crate::frame::mac::Mac;
use crate::relay::PortConfig;

/// Queue pairs that can be offered.
pub const QUEUES_MAX: i64 = 8;
/// Queue pairs offered to a VM by default: all, as a front end uses no more than it wants.
pub const QUEUES_OF_VM: u16 = 8;
/// Queue pairs of other links by default.
pub const QUEUES_OF_DEVICE: u16 = 1;
/// Queue pairs of a load port: frames are made in one place.
pub const QUEUES_OF_LOAD: u16 = 1;
/// Ports that one template can make.
const COUNT_MAX: i64 = 2048;
/// The mark in a template that the number of the port replaces.
const MARK: &str = "{n}";

/// Ports of all kinds in one daemon, at most.
const PORTS_MAX: usize = 16_384;

/// Reads all groups and ports.
pub fn read(
    groups: &[Spanned<PortTable>],
    ports: &[Spanned<PortTable>],
    broken: &Broken,
    relays: &Relays,
    workers: usize,
    claims: &mut Claims,
    faults: &mut Faults,
) -> (Vec<Seat>, BTreeMap<String, Port>) {
    let groups = read_groups(groups, faults);
    let mut used = BTreeSet::new();
    let mut seats = Vec::new();
    let mut made = BTreeMap::new();
    for table in ports {
        let mut merged = table.get_ref().clone();
        if let Some(word) = merged.group.clone() {
            if let Some(group) = groups.get(word.get_ref()) {
                used.insert(word.get_ref().clone());
                inherit(&mut merged, group.get_ref());
            } else if !broken.has("group", word.get_ref()) {
                let known = groups.keys().map(String::as_str);
                faults.push(unknown("group", word.get_ref(), word.span(), known));
            }
        }
        let around = (relays, workers);
        let template = Template::read(&merged, table.span(), around, faults);
        template.expand(&merged, claims, faults, &mut seats, &mut made);
    }
    for (name, group) in &groups {
        if !used.contains(name) {
            of_port(group.get_ref(), None, faults);
            number::<u16>(&group.get_ref().queues, "queues", 1..=QUEUES_MAX, faults);
            worker(&group.get_ref().worker, workers, faults);
        }
    }
    (seats, made)
}

fn read_groups<'a>(
    tables: &'a [Spanned<PortTable>],
    faults: &mut Faults,
) -> BTreeMap<String, &'a Spanned<PortTable>> {
    let mut groups: BTreeMap<String, &Spanned<PortTable>> = BTreeMap::new();
    for table in tables {
        let group = table.get_ref();
        let own = [
            ("count", place(&group.count)),
            ("first", place(&group.first)),
            ("group", place(&group.group)),
            ("listen", place(&group.listen)),
            ("connect", place(&group.connect)),
            ("tap", place(&group.tap)),
            ("generator", place(&group.generator)),
            ("sink", place(&group.sink)),
            ("mac", place(&group.mac)),
        ];
        for (key, at) in own.into_iter().filter_map(|(key, at)| Some((key, at?))) {
            faults.push(
                Fault::at(at, format!("a group has no `{key}`"))
                    .help("it belongs to the ports themselves"),
            );
        }
        let Some(name) = &group.name else {
            faults
                .push(Fault::at(table.span(), "a group needs a name").help("add `name = \"web\"`"));
            continue;
        };
        check_name(name.get_ref(), "group", name.span(), faults);
        if let Some(first) = groups.get(name.get_ref()) {
            let first = place(&first.get_ref().name).unwrap_or_else(|| first.span());
            faults.push(
                Fault::at(
                    name.span(),
                    format!("two groups are named `{}`", name.get_ref()),
                )
                .with(first, "the first")
                .help("give one of them another name"),
            );
        } else {
            groups.insert(name.get_ref().clone(), table);
        }
    }
    groups
}

/// Fills in what the port does not say. The VLAN words count as one: a port that has any of them
/// takes none from its group, except that `native` alone joins the group's `trunk`.
fn inherit(port: &mut PortTable, group: &PortTable) {
    macro_rules! fill {
        ($($word:ident)*) => { $(
            if port.$word.is_none() { port.$word.clone_from(&group.$word); }
        )* };
    }
    let own = port.access.is_some()
        || port.trunk.is_some()
        || port.qinq.is_some()
        || port.translate.is_some();
    if !own {
        fill!(access trunk native qinq translate);
    }
    if port.mac_policy.is_none() {
        fill!(mac_policy mac_limit);
    }
    fill!(relay mode queues mtu flood_unknown reflective accept_own_src promiscuous default_pcp);
    fill!(join multicast_router standby worker);
}

/// A `[[port]]` table before it becomes one or many ports.
struct Template {
    at: Span,
    name: String,
    numbers: Option<(u32, u32)>,
    relay: Option<String>,
    queues: u16,
    worker: Option<usize>,
    settings: PortConfig,
    marks: Marks,
    tap_mac: Option<Mac>,
    generator: Option<Generator>,
}

impl Template {
    fn read(
        table: &PortTable,
        at: Span,
        (relays, workers): (&Relays, usize),
        faults: &mut Faults,
    ) -> Template {
        let name = table.name.as_ref().map(|name| name.get_ref().clone());
        let name_at = place(&table.name).unwrap_or_else(|| at.clone());
        if name.is_none() {
            faults.push(Fault::at(at.clone(), "a port needs a name").help("add `name = \"vm1\"`"));
        }
        let name = name.unwrap_or_default();
        let relay = relays.resolve("port", &name, &table.relay, &name_at, faults);
        let tap = table.tap.as_ref().map(Spanned::get_ref);
        let tap_mac = tap.and_then(|tap| tap::mac(tap, faults));
        let (mut settings, marks) = of_port(table, tap_mac.clone(), faults);
        backends(table, &at, faults);
        load::check(table, faults);
        let generator = table
            .generator
            .as_ref()
            .and_then(|word| load::generator(word, faults));
        if let Some(generator) = &generator {
            load::admit(table, generator, &mut settings);
        }
        let mut template = Template {
            at: name_at,
            name,
            numbers: numbers(table, faults),
            relay,
            queues: match load::is_load(table) {
                Some(_) => QUEUES_OF_LOAD,
                None => tap::queues(&table.queues, table.tap.as_ref(), faults),
            },
            worker: worker(&table.worker, workers, faults),
            settings,
            marks,
            tap_mac: tap_mac.map(|(mac, _)| mac),
            generator,
        };
        if !template.is_marked(table, faults) {
            // All its ports would be the same: one is enough to find what else is wrong.
            template.numbers = template.numbers.map(|(first, _)| (first, 1));
        }
        template
    }

    /// A template has the mark in each name that must differ; anything else has none.
    fn is_marked(&self, table: &PortTable, faults: &mut Faults) -> bool {
        let before = faults.len();
        let tap = table
            .tap
            .as_ref()
            .and_then(|tap| tap.get_ref().name.as_ref());
        let words = [
            table.name.as_ref(),
            table.listen.as_ref(),
            table.connect.as_ref(),
            tap,
        ];
        if let (Some(fd), Some(_)) = (tap::fd(table.tap.as_ref()), &table.count) {
            faults.push(
                Fault::at(
                    fd,
                    "all ports of this template would share these descriptors",
                )
                .help("write the ports out"),
            );
        }
        for word in words.into_iter().flatten() {
            let marked = word.get_ref().contains(MARK);
            if self.numbers.is_none() && marked && table.count.is_none() {
                faults.push(
                    Fault::at(word.span(), "`{n}` stands for nothing without `count`")
                        .help("add `count = 16`, or write the name out"),
                );
            }
            if self.numbers.is_some_and(|(_, count)| count > 1) && !marked {
                faults.push(
                    Fault::at(word.span(), "all ports of this template would share this")
                        .help("put `{n}` where the number of the port belongs"),
                );
            }
        }
        faults.len() == before
    }

    fn expand(
        &self,
        table: &PortTable,
        claims: &mut Claims,
        faults: &mut Faults,
        seats: &mut Vec<Seat>,
        made: &mut BTreeMap<String, Port>,
    ) {
        let (first, count) = self.numbers.unwrap_or((1, 1));
        for index in 0..count {
            let number = self.numbers.map(|_| (first + index).to_string());
            let fill = |text: &str| match &number {
                Some(number) => text.replace(MARK, number),
                None => text.to_owned(),
            };
            let name = fill(&self.name);
            let before = faults.len();
            if table.name.is_some() && !(self.numbers.is_none() && name.contains(MARK)) {
                check_name(&name, "port", self.at.clone(), faults);
                claims.name(&name, "port", &self.at, faults);
            }
            let backend = self.backend(table, index, &fill, claims, faults);
            let settings = self.shifted(index, faults);
            if faults.len() > before && index > 0 {
                // The other ports of the template would only repeat it.
                claims.lost = true;
                return;
            }
            if seats.len() == PORTS_MAX {
                faults.push(
                    Fault::at(self.at.clone(), format!("more than {PORTS_MAX} ports"))
                        .help("run a second daemon"),
                );
                return;
            }
            let Some(relay) = self.relay.clone() else {
                claims.lost = true;
                continue;
            };
            seats.push(Seat {
                name: name.clone(),
                at: self.at.clone(),
                relay: relay.clone(),
                settings: settings.clone(),
                marks: self.marks.clone(),
                plug: if table.tap.is_some() {
                    Plug::Host
                } else if load::is_load(table).is_some() {
                    Plug::Load
                } else {
                    Plug::Vm
                },
            });
            if let Some(backend) = backend {
                made.insert(
                    name,
                    Port {
                        relay,
                        backend,
                        queues: self.queues,
                        worker: self.worker,
                        settings,
                    },
                );
            }
        }
    }

    fn backend(
        &self,
        table: &PortTable,
        index: u32,
        fill: &impl Fn(&str) -> String,
        claims: &mut Claims,
        faults: &mut Faults,
    ) -> Option<Backend> {
        let mut socket_at = |word: &Spanned<String>| {
            let path = socket(&fill(word.get_ref()), word.span(), faults)?;
            claims.socket(&path, &word.span(), faults);
            Some(path)
        };
        if let Some(word) = &table.listen {
            return socket_at(word).map(Backend::Listen);
        }
        if let Some(word) = &table.connect {
            return socket_at(word).map(Backend::Connect);
        }
        if table.generator.is_some() {
            return self.generator.clone().map(Backend::Generator);
        }
        if table.sink.is_some() {
            return Some(Backend::Sink);
        }
        let mac = self.tap_mac.and_then(|mac| shift(mac, index));
        match tap::device(table.tap.as_ref()?, mac, fill, claims, faults)? {
            Device::Named(tap) => Some(Backend::Tap(tap)),
            Device::Handed(handed) => Some(Backend::Handed(handed)),
        }
    }

    /// The settings of one port of the template.
    fn shifted(&self, index: u32, faults: &mut Faults) -> PortConfig {
        let mut settings = self.settings.clone();
        for (mac, at) in settings.macs.iter_mut().zip(&self.marks.macs) {
            let Some(shifted) = shift(*mac, index) else {
                faults.push(
                    Fault::at(at.clone(), "the addresses of this template run out").help(
                        "each port has the address of the one before it plus one, in the last three octets: start lower",
                    ),
                );
                break;
            };
            *mac = shifted;
        }
        settings
    }
}

/// The address `index` above `mac`, of the same vendor: the ports of a template have their
/// addresses in a row.
pub fn shift(mac: Mac, index: u32) -> Option<Mac> {
    let (vendor, device) = (mac.to_u64() >> 24, mac.to_u64() & 0xff_ffff);
    let device = device + u64::from(index);
    (device <= 0xff_ffff).then(|| Mac::from_u64(vendor << 24 | device))
}

fn numbers(table: &PortTable, faults: &mut Faults) -> Option<(u32, u32)> {
    let first = number(&table.first, "first", 0..=999_999, faults);
    if let (Some(word), None) = (&table.first, &table.count) {
        faults.push(Fault::at(word.span(), "`first` goes with `count`").help("add `count = 16`"));
    }
    let count = number(&table.count, "count", 1..=COUNT_MAX, faults)?;
    Some((first.unwrap_or(1), count))
}

/// Exactly one of the backends.
fn backends(table: &PortTable, at: &Span, faults: &mut Faults) {
    let words = [
        ("listen", place(&table.listen)),
        ("connect", place(&table.connect)),
        ("tap", place(&table.tap)),
        ("generator", place(&table.generator)),
        ("sink", place(&table.sink)),
    ];
    one_of(&words, "port", at, faults);
    if let Some(tap) = &table.tap {
        tap::named(tap, faults);
    }
}

/// Exactly one of `words` is there.
pub fn one_of(
    words: &[(&str, Option<Span>)],
    kind: &str,
    table: &Span,
    faults: &mut Faults,
) -> bool {
    let mut given = words
        .iter()
        .filter_map(|(key, at)| Some((*key, at.clone()?)));
    let names: Vec<&str> = words.iter().map(|(key, _)| *key).collect();
    let Some((first, first_at)) = given.next() else {
        faults.push(
            Fault::at(
                table.clone(),
                format!("nothing is plugged into this {kind}"),
            )
            .help(format!("add one of `{}`", names.join("`, `"))),
        );
        return false;
    };
    let before = faults.len();
    for (key, at) in given {
        faults.push(
            Fault::at(at, format!("a {kind} has either `{first}` or `{key}`"))
                .with(first_at.clone(), format!("`{first}` is here"))
                .help("keep one of them"),
        );
    }
    faults.len() == before
}
