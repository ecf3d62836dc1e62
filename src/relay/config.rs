//! What a relay and its ports are told: plain data, and the defaults that depend on other choices.

use std::collections::BTreeMap;

use super::vid_set::VidSet;
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

/// Addresses that a port may have learned at once under `mac_policy = { learn = .. }` by default.
pub const DEFAULT_LEARN: u32 = 8;
/// Addresses that a trusted port may have learned at once by default.
pub const DEFAULT_TRUSTED_LIMIT: u32 = 1024;
/// Learned and static addresses of a relay by default.
pub const DEFAULT_MAX_ENTRIES: u32 = 65_536;
/// Seconds after which a learned address is forgotten by default.
pub const DEFAULT_AGEING: u32 = 300;

/// The settings of a relay, without its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Seconds after which a learned address that sent nothing is forgotten; 0 turns learning off.
    pub ageing: u32,
    /// `reflect = "local"`: the relay itself does what a reflecting switch would do.
    pub reflect_local: bool,
    /// Who receives multicast frames.
    pub multicast: Multicast,
    /// Bit n lets frames to 01:80:c2:00:00:0n through. Bit 1 has no effect.
    pub group_fwd_mask: u16,
    /// VLANs that share what they learn, set by set; a VLAN in no set learns by itself.
    pub fids: Vec<VidSet>,
    /// How many learned and static addresses the relay holds. The relay's
    /// [`Fdb`](super::Fdb) must have been made for at least as many.
    pub max_entries: u32,
}

impl Default for RelayConfig {
    fn default() -> RelayConfig {
        RelayConfig {
            ageing: DEFAULT_AGEING,
            reflect_local: false,
            multicast: Multicast::Flood,
            group_fwd_mask: 0,
            fids: Vec::new(),
            max_entries: DEFAULT_MAX_ENTRIES,
        }
    }
}

/// Who receives multicast frames. Broadcast, 224.0.0.x, `ff02::1` and reserved addresses let through
/// always go to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// Every member of the VLAN counts as joined.
    Flood,
    /// A group goes to the ports that list it in [`PortConfig::groups`], and to multicast routers.
    Groups {
        /// Whether groups that no port of the VLAN lists go to all, rather than only to the uplink
        /// and to multicast routers.
        flood_unregistered: bool,
    },
}

/// On which side of the relay a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A VM, the host or the end of a patch link.
    Local,
    /// The way to the adjacent switch; at most one per relay.
    Uplink,
}

/// How a local port talks to the other local ports. Ignored on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Directly.
    Bridge,
    /// By way of the adjacent switch only.
    Vepa,
    /// Not at all.
    Private,
    /// It is the only one and has the uplink for itself.
    Passthrough,
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanConfig {
    /// No VLAN key. In a relay where no port has one, tags are payload. Beside ports that have one,
    /// an uplink without is a trunk of all VIDs in use; a local port without is an error.
    Flat,
    /// Untagged, in this VLAN.
    Access(Vid),
    /// Tagged in these VLANs.
    Trunk {
        /// The tagged VLANs; `native` belongs to the port whether it is listed or not.
        vids: VidSet,
        /// The VLAN of untagged frames.
        native: Option<Vid>,
    },
    /// Tagged with other VIDs than the relay's: external VID to internal VID, no internal one twice.
    Translate(BTreeMap<Vid, Vid>),
    /// Any frame, as payload of this S-VID.
    Qinq(Vid),
}

/// Which source addresses a local port may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPolicy {
    /// Those in [`PortConfig::macs`]; where that is empty, the first one seen.
    Pinned,
    /// Those, and up to this many learned ones at a time.
    Learn(u32),
    /// Those, and up to this many learned ones at a time; a nested bridge is behind the port.
    Trusted {
        /// How many may be learned at a time.
        limit: u32,
    },
}

/// A multicast group that a port has joined by configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticGroup {
    /// The group's address.
    pub mac: Mac,
    /// In this VLAN only; `None` in all VLANs of the port.
    pub vid: Option<Vid>,
}

/// The settings of one port of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a word of the configuration.
pub struct PortConfig {
    /// Local port or uplink.
    pub role: Role,
    /// Mode of a local port.
    pub mode: Mode,
    /// Its VLANs.
    pub vlan: VlanConfig,
    /// Registered addresses: they belong to the port in all its VLANs.
    pub macs: Vec<Mac>,
    /// Which source addresses it may use. On an uplink only a learning limit counts.
    pub mac_policy: MacPolicy,
    /// Whether unicast frames to unknown destinations go to this bridge port.
    pub flood_unknown: bool,
    /// Whether unicast frames to unknown destinations from the uplink go to this VEPA port.
    pub promiscuous: bool,
    /// On an uplink: whether the adjacent switch reflects. On a bridge port: whether the relay
    /// reflects towards it, that is, transmits back on the port of reception.
    pub reflective: bool,
    /// Whether the port's own frames, reflected, are delivered to it.
    pub accept_own_src: bool,
    /// Longest layer-2 payload that the port takes, in bytes; no check where it is `None`.
    pub mtu: Option<u16>,
    /// Priority of frames that arrive untagged, 0 to 7.
    pub default_pcp: u8,
    /// Multicast groups it has joined by configuration; see [`Multicast::Groups`].
    pub groups: Vec<StaticGroup>,
    /// Whether a multicast router is behind the port, so that it receives all groups.
    pub multicast_router: bool,
    /// Whether the port is the standby of a failover pair: it owns its addresses only while it
    /// carries the traffic, see [`PortState::set_carrying`](super::PortState::set_carrying).
    pub standby: bool,
}

impl PortConfig {
    /// A local port with the defaults of relay.md section 4 for its mode and addresses.
    pub fn local(mode: Mode, vlan: VlanConfig, macs: Vec<Mac>) -> PortConfig {
        let mac_policy = default_mac_policy(mode);
        PortConfig {
            role: Role::Local,
            mode,
            vlan,
            flood_unknown: default_flood_unknown(mode, mac_policy, &macs),
            macs,
            mac_policy,
            promiscuous: false,
            reflective: false,
            accept_own_src: false,
            mtu: None,
            default_pcp: 0,
            groups: Vec::new(),
            multicast_router: false,
            standby: false,
        }
    }

    /// An uplink; `reflective` says whether the adjacent switch reflects, see
    /// [`default_uplink_reflective`].
    pub fn uplink(vlan: VlanConfig, reflective: bool) -> PortConfig {
        PortConfig {
            role: Role::Uplink,
            mac_policy: MacPolicy::Trusted { limit: u32::MAX },
            flood_unknown: false,
            reflective,
            ..PortConfig::local(Mode::Bridge, vlan, Vec::new())
        }
    }

    /// Whether the port is pinned to the first source that it shows.
    pub fn pins_first(&self) -> bool {
        self.mac_policy == MacPolicy::Pinned && self.macs.is_empty()
    }

    /// How many addresses the port may have learned at a time.
    pub fn learn_limit(&self) -> u32 {
        match self.mac_policy {
            MacPolicy::Pinned => 0,
            MacPolicy::Learn(limit) | MacPolicy::Trusted { limit } => limit,
        }
    }
}

/// The `mac_policy` of a local port where the user names none. The host port is a bridge port.
pub fn default_mac_policy(mode: Mode) -> MacPolicy {
    match mode {
        Mode::Bridge => MacPolicy::Learn(DEFAULT_LEARN),
        Mode::Vepa | Mode::Private => MacPolicy::Pinned,
        Mode::Passthrough => MacPolicy::Trusted {
            limit: DEFAULT_TRUSTED_LIMIT,
        },
    }
}

/// The `flood_unknown` of a local port where the user does not set it: a port all of whose
/// addresses are registered and pinned has no unknown ones.
pub fn default_flood_unknown(mode: Mode, policy: MacPolicy, macs: &[Mac]) -> bool {
    let all_known = policy == MacPolicy::Pinned && !macs.is_empty();
    mode == Mode::Bridge && !all_known
}

/// Whether the adjacent switch is taken to reflect where the user does not say: it must, where the
/// relay has a VEPA port.
pub fn default_uplink_reflective(local_modes: impl IntoIterator<Item = Mode>) -> bool {
    local_modes.into_iter().any(|mode| mode == Mode::Vepa)
}
