//! Which virtual function is wanted, and what is known of one: plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::mac::Mac;
use crate::uplink::spec::{Kind, MacvtapMode, MacvtapSpec, PacketSpec, Spec, XdpSpec};

/// A virtual function to make or take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SriovSpec {
    /// Name of the physical function's network device.
    pub pf: String,
    /// Number of the virtual function.
    pub vf: u16,
    /// How many virtual functions are made where the NIC has none yet.
    pub create: Option<u16>,
    /// What the physical function is to set.
    pub settings: FunctionSettings,
    /// What goes over the link.
    pub serves: Serves,
    /// How its network device is reached.
    pub via: Via,
    /// How many queues.
    pub queues: u16,
    /// The MTU; as it is where there is none.
    pub mtu: Option<u16>,
    /// Whether a function may be taken whose device holds an address or a default route.
    pub take_parent: bool,
}

/// How the network device of a virtual function is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// By a MACVTAP device of this name, in passthru mode.
    Macvtap {
        /// The name.
        name: String,
    },
    /// By packet sockets.
    Packet,
    /// By `AF_XDP` sockets.
    Xdp,
}

/// What the physical function can set for a virtual one; what is not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSettings {
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// The VLAN that the NIC tags its frames with; 0 for none.
    pub vlan: Option<u16>,
    /// Whether the NIC drops frames with other sources than its addresses.
    pub spoofchk: Option<bool>,
    /// Whether it may ask for further addresses and for promiscuous mode.
    pub trust: Option<bool>,
    /// The most that it sends, in Mbit/s; 0 for no limit.
    pub rate: Option<u32>,
}

/// What goes over a link, as far as a NIC has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serves {
    /// The addresses of stations behind the link that are known.
    pub macs: Vec<[u8; 6]>,
    /// Whether there may be others.
    pub open: bool,
    /// Whether frames carry tags.
    pub tagged: bool,
}

/// What the NIC's driver says of a virtual function. A driver that does not tell one of the switches
/// is shown as if it were off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FunctionState {
    /// Its address as the physical function has set it; zero where it did not.
    #[serde(serialize_with = "show_mac")]
    pub mac: [u8; 6],
    /// The VLAN that the NIC tags its frames with; 0 for none.
    pub vlan: u16,
    /// Whether frames with other sources than its addresses drop.
    pub spoofchk: bool,
    /// Whether it may ask for further addresses and for promiscuous mode.
    pub trust: bool,
    /// The most that it sends, in Mbit/s; 0 for no limit.
    pub rate: u32,
}

/// One thing that the physical function can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// The address.
    Mac([u8; 6]),
    /// The VLAN.
    Vlan(u16),
    /// The limit of what it sends, in Mbit/s.
    Rate(u32),
    /// Trust.
    Trust(bool),
    /// The check of sources.
    Spoofchk(bool),
}

impl SriovSpec {
    /// The link over the function's network device `device`.
    pub(super) fn link(&self, device: &str) -> Spec {
        match &self.via {
            Via::Macvtap { name } => Spec::Macvtap(MacvtapSpec {
                name: name.clone(),
                parent: device.to_owned(),
                mode: MacvtapMode::Passthru,
                queues: self.queues,
                mac: None,
                mtu: self.mtu,
                take_parent: self.take_parent,
            }),
            Via::Packet => Spec::Packet(PacketSpec {
                device: device.to_owned(),
                queues: self.queues,
            }),
            Via::Xdp => Spec::Xdp(XdpSpec {
                device: device.to_owned(),
                queues: self.queues,
                take_parent: self.take_parent,
                sheltered: !self.serves.open && !self.serves.tagged,
            }),
        }
    }

    /// What the link will be.
    pub(in crate::uplink) fn kind(&self) -> Kind {
        match self.via {
            Via::Macvtap { .. } => Kind::Macvtap,
            Via::Packet => Kind::Packet,
            Via::Xdp => Kind::Xdp,
        }
    }

    /// The device that is made.
    pub(in crate::uplink) fn made(&self) -> Option<&String> {
        match &self.via {
            Via::Macvtap { name } => Some(name),
            Via::Packet | Via::Xdp => None,
        }
    }
}

impl FunctionSettings {
    /// What is to be set, in the order in which drivers like it.
    pub fn list(&self) -> impl Iterator<Item = Setting> {
        [
            self.mac.map(Setting::Mac),
            self.vlan.map(Setting::Vlan),
            self.rate.map(Setting::Rate),
            self.trust.map(Setting::Trust),
            self.spoofchk.map(Setting::Spoofchk),
        ]
        .into_iter()
        .flatten()
    }
}

impl FunctionState {
    /// Whether something is set already.
    pub fn has(&self, setting: Setting) -> bool {
        match setting {
            Setting::Mac(mac) => self.mac == mac,
            Setting::Vlan(vlan) => self.vlan == vlan,
            Setting::Rate(rate) => self.rate == rate,
            Setting::Trust(trust) => self.trust == trust,
            Setting::Spoofchk(spoofchk) => self.spoofchk == spoofchk,
        }
    }
}

impl Setting {
    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mac(_) => "mac",
            Self::Vlan(_) => "vlan",
            Self::Rate(_) => "rate",
            Self::Trust(_) => "trust",
            Self::Spoofchk(_) => "spoofchk",
        }
    }
}

/// As `ip link set dev PF vf N` takes it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Mac(mac) => write!(f, "mac {}", Mac::new(*mac)),
            Self::Vlan(vlan) => write!(f, "vlan {vlan}"),
            Self::Rate(rate) => write!(f, "max_tx_rate {rate}"),
            Self::Trust(on) => write!(f, "trust {}", switch(on)),
            Self::Spoofchk(on) => write!(f, "spoofchk {}", switch(on)),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn show_mac<S: serde::Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Mac::new(*mac))
}
