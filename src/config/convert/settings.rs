//! What a relay is told of a local port: the words that `[[port]]`, `[[group]]` and the ends of a
//! `[[patch]]` have in common.

use toml::Spanned;

use super::vlan::VlanWords;
use super::words::{Faults, choice, flag, group_address, number, place, stations, vid};
use crate::config::file::{EndTable, JoinItem, MacPolicyItem, PortTable, Word, Words};
use crate::config::report::{Fault, Span};
use crate::frame::mac::Mac;
use crate::relay::{
    DEFAULT_TRUSTED_LIMIT, MacPolicy, Mode, PortConfig, StaticGroup, default_flood_unknown,
    default_mac_policy,
};

/// Where the words stand that other ports may contradict.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// The first VLAN word, if there is one.
    pub vlan: Option<Span>,
    /// The mode, if it is given.
    pub mode: Option<Span>,
    /// The registered addresses, in their order.
    pub macs: Vec<Span>,
    /// The groups joined, in their order.
    pub groups: Vec<Span>,
    /// Which addresses it may use, if that is said.
    pub policy: Option<Span>,
    /// `flood_unknown`, if it is given.
    pub flood: Option<Span>,
    /// `reflective`, if it is given.
    pub reflective: Option<Span>,
}

/// How many addresses a port may learn, at most.
const LEARN_MAX: i64 = 1_048_576;

const MODES: [(&str, Mode); 4] = [
    ("bridge", Mode::Bridge),
    ("vepa", Mode::Vepa),
    ("private", Mode::Private),
    ("passthrough", Mode::Passthrough),
];

/// The settings of a port. `host` is the address that the host's side of a TAP has: it is
/// registered where the port lists none.
pub fn of_port(
    table: &PortTable,
    host: Option<(Mac, Span)>,
    faults: &mut Faults,
) -> (PortConfig, Marks) {
    let mut macs = stations(&table.mac, faults);
    if table.mac.is_none() {
        macs.extend(host);
    }
    let words = LocalWords {
        mode: &table.mode,
        vlan: VlanWords::from(table),
        mac_policy: &table.mac_policy,
        mac_limit: &table.mac_limit,
        flood_unknown: &table.flood_unknown,
        promiscuous: &table.promiscuous,
        reflective: &table.reflective,
    };
    let (mut settings, mut marks) = words.read(macs, default_mac_policy, faults);
    settings.accept_own_src = flag(&table.accept_own_src).unwrap_or(false);
    settings.multicast_router = flag(&table.multicast_router).unwrap_or(false);
    settings.standby = standby(table, faults);
    settings.mtu = mtu(&table.mtu, faults);
    settings.default_pcp = default_pcp(&table.default_pcp, faults);
    (settings.groups, marks.groups) = joined(&table.join, faults);
    (settings, marks)
}

/// Whether the port is the standby of a failover pair: of a VM, with the one address of the pair.
fn standby(table: &PortTable, faults: &mut Faults) -> bool {
    let standby = flag(&table.standby).unwrap_or(false);
    let Some(at) = place(&table.standby).filter(|_| standby) else {
        return false;
    };
    let passthrough = |mode: &&Spanned<String>| mode.get_ref() == "passthrough";
    let macs = table.mac.as_ref().map_or(0, |macs| macs.get_ref().len());
    if let Some(tap) = place(&table.tap) {
        faults.push(
            Fault::at(at, "only a VM has a failover pair")
                .with(tap, "this port is the host's")
                .help("leave `standby` out"),
        );
    } else if let Some(mode) = table.mode.as_ref().filter(passthrough) {
        faults.push(
            Fault::at(at, "a passthrough port cannot be a standby")
                .with(mode.span(), "passthrough is here")
                .help(
                    "use another `mode`: a passthrough relay does not tell the pair's frames apart",
                ),
        );
    } else if macs != 1 {
        faults.push(
            Fault::at(at, "a standby needs the address of its pair").help(
                "add the one that primary and standby share: `mac = [\"52:54:00:00:00:01\"]`",
            ),
        );
    }
    standby
}

/// The settings of a patch's end that is a local port. Another relay is behind it, so that a
/// bridge port is trusted.
pub fn of_end(table: &EndTable, faults: &mut Faults) -> (PortConfig, Marks) {
    let words = LocalWords {
        mode: &table.mode,
        vlan: VlanWords::from(table),
        mac_policy: &table.mac_policy,
        mac_limit: &table.mac_limit,
        flood_unknown: &table.flood_unknown,
        promiscuous: &table.promiscuous,
        reflective: &table.reflective,
    };
    let policy = |mode| match mode {
        Mode::Bridge => default_mac_policy(Mode::Passthrough),
        other => default_mac_policy(other),
    };
    words.read(stations(&table.mac, faults), policy, faults)
}

/// The longest payload, in bytes.
pub fn mtu(word: &Word<i64>, faults: &mut Faults) -> Option<u16> {
    number(word, "mtu", 68..=65535, faults)
}

/// The priority of untagged frames.
pub fn default_pcp(word: &Word<i64>, faults: &mut Faults) -> u8 {
    number(word, "default_pcp", 0..=7, faults).unwrap_or(0)
}

struct LocalWords<'a> {
    mode: &'a Word<String>,
    vlan: VlanWords<'a>,
    mac_policy: &'a Word<MacPolicyItem>,
    mac_limit: &'a Word<i64>,
    flood_unknown: &'a Word<bool>,
    promiscuous: &'a Word<bool>,
    reflective: &'a Word<bool>,
}

impl LocalWords<'_> {
    fn read(
        &self,
        macs: Vec<(Mac, Span)>,
        default_policy: impl Fn(Mode) -> MacPolicy,
        faults: &mut Faults,
    ) -> (PortConfig, Marks) {
        let known = choice(self.mode, "mode", &MODES, faults);
        let mode = known.unwrap_or(Mode::Bridge);
        let (macs, mac_places) = macs.into_iter().unzip();
        let mut settings = PortConfig::local(mode, self.vlan.read(faults), macs);
        settings.mac_policy = self.policy(mode, default_policy(mode), faults);
        settings.flood_unknown = flag(self.flood_unknown)
            .unwrap_or_else(|| default_flood_unknown(mode, settings.mac_policy, &settings.macs));
        settings.promiscuous = flag(self.promiscuous).unwrap_or(false);
        settings.reflective = flag(self.reflective).unwrap_or(false);
        if let (true, Some(word)) = (settings.reflective && mode != Mode::Bridge, self.reflective) {
            faults.push(
                Fault::at(word.span(), "only a bridge port can be reflective")
                    .help("`reflective` makes the relay the reflecting switch of a station behind the port; leave it out here"),
            );
        }
        if known.is_some() || self.mode.is_none() {
            self.unknown_addresses(mode, faults);
        }
        let marks = Marks {
            vlan: self.vlan.place(),
            mode: place(self.mode),
            macs: mac_places,
            policy: place(self.mac_policy),
            flood: place(self.flood_unknown),
            reflective: place(self.reflective),
            ..Marks::default()
        };
        (settings, marks)
    }

    /// Each mode has its own word for frames to unknown addresses, or none.
    fn unknown_addresses(&self, mode: Mode, faults: &mut Faults) {
        let words = [
            ("flood_unknown", self.flood_unknown, Mode::Bridge, "bridge"),
            ("promiscuous", self.promiscuous, Mode::Vepa, "VEPA"),
        ];
        for (key, word, its_mode, whose) in words {
            let Some(at) = place(word).filter(|_| flag(word) == Some(true) && mode != its_mode)
            else {
                continue;
            };
            let mut fault = Fault::at(at, format!("`{key}` is for {whose} ports"));
            if let Some(mode) = place(self.mode) {
                fault = fault.with(mode, "its mode");
            }
            faults.push(fault.help(match mode {
                Mode::Bridge => {
                    "a bridge port that receives frames to unknown addresses has `flood_unknown = true`"
                }
                Mode::Vepa => {
                    "a VEPA port that receives frames from the uplink to unknown addresses has `promiscuous = true`"
                }
                Mode::Private => {
                    "a private port receives no frames to unknown addresses: leave it out"
                }
                Mode::Passthrough => "a passthrough port receives every frame: leave it out",
            }));
        }
    }

    fn policy(&self, mode: Mode, default: MacPolicy, faults: &mut Faults) -> MacPolicy {
        let policy = match self
            .mac_policy
            .as_ref()
            .map(|word| (word.get_ref(), word.span()))
        {
            None => default,
            Some((MacPolicyItem::Learn(limit), at)) => {
                let limit = number(&Some(limit.clone()), "learn", 1..=LEARN_MAX, faults);
                let Some(limit) = limit else { return default };
                self.may_learn(mode, at, faults);
                MacPolicy::Learn(limit)
            }
            Some((MacPolicyItem::Named(name), at)) => match name.as_str() {
                "pinned" => MacPolicy::Pinned,
                "trusted" => {
                    self.may_learn(mode, at, faults);
                    MacPolicy::Trusted {
                        limit: DEFAULT_TRUSTED_LIMIT,
                    }
                }
                other => {
                    faults.push(
                        Fault::at(at, format!("`mac_policy` cannot be \"{other}\""))
                            .help("one of \"pinned\", \"trusted\", { learn = 8 }"),
                    );
                    return default;
                }
            },
        };
        let Some(word) = self.mac_limit else {
            return policy;
        };
        let limit = number(self.mac_limit, "mac_limit", 1..=LEARN_MAX, faults);
        if matches!(policy, MacPolicy::Trusted { .. }) {
            return limit.map_or(policy, |limit| MacPolicy::Trusted { limit });
        }
        let help = if matches!(policy, MacPolicy::Learn(_)) {
            format!("write `mac_policy = {{ learn = {} }}`", word.get_ref())
        } else {
            "a pinned port learns nothing: leave `mac_limit` out".to_owned()
        };
        faults.push(Fault::at(word.span(), "`mac_limit` is for trusted ports").help(help));
        policy
    }

    fn may_learn(&self, mode: Mode, at: Span, faults: &mut Faults) {
        let word = match mode {
            Mode::Vepa => "VEPA",
            Mode::Private => "private",
            Mode::Bridge | Mode::Passthrough => return,
        };
        let mut fault = Fault::at(at, format!("a {word} port does not learn"));
        if let Some(mode) = place(self.mode) {
            fault = fault.with(mode, "its mode");
        }
        faults.push(fault.help(
            "list its addresses in `mac`, or leave `mac_policy` out to pin the first one it uses",
        ));
    }
}

fn joined(words: &Words<JoinItem>, faults: &mut Faults) -> (Vec<StaticGroup>, Vec<Span>) {
    let mut groups: Vec<StaticGroup> = Vec::new();
    let mut places: Vec<Span> = Vec::new();
    for item in words.iter().flat_map(Spanned::get_ref) {
        let JoinItem { mac, vid: in_vid } = item.get_ref();
        let Some(mac) = group_address(mac, item.span(), faults) else {
            continue;
        };
        let vid = in_vid
            .as_ref()
            .and_then(|word| vid(*word.get_ref(), word.span(), faults));
        let group = StaticGroup { mac, vid };
        if let Some(first) = groups.iter().position(|other| *other == group) {
            faults.push(
                Fault::at(item.span(), format!("group {mac} is joined twice"))
                    .with(places[first].clone(), "first here")
                    .help("list each group once"),
            );
        } else {
            groups.push(group);
            places.push(item.span());
        }
    }
    (groups, places)
}
