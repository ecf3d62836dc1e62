//! The file form: the words a user may write, with the place of each.
//!
//! Every key is optional here and every value keeps its span; types are no narrower than TOML's own
//! (numbers are `i64`, names of things are strings), so that range, spelling and contradiction are
//! judged in one place, the conversion, which can report many faults at once. This module knows
//! no default and no rule.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

/// A value with its place, or nothing.
pub type Word<T> = Option<Spanned<T>>;
/// A list whose items keep their places.
pub type Words<T> = Option<Spanned<Vec<Spanned<T>>>>;

/// `[daemon]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct DaemonTable {
    pub control: Word<String>,
    pub state: Word<String>,
    pub workers: Word<i64>,
    pub cpus: Words<i64>,
    pub poll: Word<String>,
    pub rx_wait_us: Word<i64>,
    pub cool_us: Word<i64>,
}

/// `[[relay]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RelayTable {
    pub name: Word<String>,
    pub ageing: Word<i64>,
    pub reflect: Word<String>,
    pub multicast: Word<String>,
    pub flood_unregistered: Word<bool>,
    pub group_fwd_mask: Word<i64>,
    pub fid: Words<Vec<Spanned<VidItem>>>,
    pub max_entries: Word<i64>,
    pub nested_reflect: Word<bool>,
    #[serde(rename = "static")]
    pub fixed: Words<StaticTable>,
}

/// One item of a relay's `static` list.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { mac = \"…\", port = \"…\" }"
)]
pub struct StaticTable {
    pub mac: Word<String>,
    pub vid: Word<i64>,
    pub port: Word<String>,
}

/// `[[port]]` and `[[group]]`: a group has the same words but those that make a port one thing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct PortTable {
    pub name: Word<String>,
    pub count: Word<i64>,
    pub first: Word<i64>,
    pub group: Word<String>,
    pub listen: Word<String>,
    pub connect: Word<String>,
    pub tap: Word<TapTable>,
    pub generator: Word<GeneratorTable>,
    pub sink: Word<bool>,
    pub mac: Words<String>,
    pub relay: Word<String>,
    pub mode: Word<String>,
    pub access: Word<i64>,
    pub trunk: Words<VidItem>,
    pub native: Word<i64>,
    pub qinq: Word<i64>,
    pub translate: Word<BTreeMap<Spanned<String>, Spanned<i64>>>,
    pub mac_policy: Word<MacPolicyItem>,
    pub mac_limit: Word<i64>,
    pub queues: Word<i64>,
    pub mtu: Word<i64>,
    pub flood_unknown: Word<bool>,
    pub reflective: Word<bool>,
    pub accept_own_src: Word<bool>,
    pub promiscuous: Word<bool>,
    pub default_pcp: Word<i64>,
    pub join: Words<JoinItem>,
    pub multicast_router: Word<bool>,
    pub standby: Word<bool>,
    pub worker: Word<i64>,
}

/// `tap = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { name = \"evb0\" }")]
pub struct TapTable {
    pub name: Word<String>,
    pub mac: Word<String>,
    pub owner: Word<i64>,
    pub group: Word<i64>,
    pub fd: Word<FdItem>,
}

/// `generator = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { dst = \"52:54:00:00:00:01\", src = \"52:54:00:00:01:01\" }"
)]
pub struct GeneratorTable {
    pub rate: Word<String>,
    pub sizes: Words<i64>,
    pub flows: Word<FlowsItem>,
    pub dst: Word<String>,
    pub src: Word<String>,
    pub vid: Word<i64>,
    pub start: Word<bool>,
}

/// One of the `flows` of a generator.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { dst = \"52:54:00:00:00:01\", src = \"52:54:00:00:01:01\" }"
)]
pub struct FlowTable {
    pub dst: Word<String>,
    pub src: Word<String>,
    pub vid: Word<i64>,
}

/// `flows`: how many, or which.
#[derive(Debug, Clone)]
pub enum FlowsItem {
    Count(i64),
    List(Vec<Spanned<FlowTable>>),
}

impl<'de> Deserialize<'de> for FlowsItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FlowsItem, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = FlowsItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of flows, or a list of { dst = \"…\", src = \"…\" }")
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<FlowsItem, E> {
                Ok(FlowsItem::Count(count))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<FlowsItem, A::Error> {
                let list = Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                Ok(FlowsItem::List(list))
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// `fd`: a descriptor, or a list of them.
#[derive(Debug, Clone)]
pub struct FdItem(pub Vec<i64>);

impl<'de> Deserialize<'de> for FdItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FdItem, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = FdItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a descriptor such as 5, or a list such as [5, 6]")
            }
            fn visit_i64<E: de::Error>(self, fd: i64) -> Result<FdItem, E> {
                Ok(FdItem(vec![fd]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<FdItem, A::Error> {
                let mut fds = Vec::new();
                while let Some(fd) = seq.next_element()? {
                    fds.push(fd);
                }
                Ok(FdItem(fds))
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// `[[patch]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct PatchTable {
    pub name: Word<String>,
    pub a: Word<EndTable>,
    pub b: Word<EndTable>,
}

/// One end of a patch.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { relay = \"blue\" }"
)]
pub struct EndTable {
    pub relay: Word<String>,
    pub uplink: Word<bool>,
    pub mode: Word<String>,
    pub access: Word<i64>,
    pub trunk: Words<VidItem>,
    pub native: Word<i64>,
    pub qinq: Word<i64>,
    pub translate: Word<BTreeMap<Spanned<String>, Spanned<i64>>>,
    pub mac: Words<String>,
    pub mac_policy: Word<MacPolicyItem>,
    pub mac_limit: Word<i64>,
    pub flood_unknown: Word<bool>,
    pub reflective: Word<bool>,
    pub promiscuous: Word<bool>,
}

/// `[[uplink]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct UplinkTable {
    pub name: Word<String>,
    pub relay: Word<String>,

    pub listen: Word<String>,
    pub connect: Word<String>,
    pub tap: Word<TapTable>,
    pub macvtap: Word<MacvtapTable>,
    pub af_packet: Word<DeviceTable>,
    pub af_xdp: Word<DeviceTable>,
    pub sriov: Word<SriovTable>,
    pub bond: Words<String>,

    pub access: Word<i64>,
    pub trunk: Words<VidItem>,
    pub native: Word<i64>,
    pub qinq: Word<i64>,
    pub translate: Word<BTreeMap<Spanned<String>, Spanned<i64>>>,
    pub queues: Word<i64>,
    pub mtu: Word<i64>,
    pub reflective: Word<bool>,
    pub take_parent: Word<bool>,
    pub default_pcp: Word<i64>,
    pub worker: Word<i64>,
}

/// `macvtap = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { parent = \"eth1\" }"
)]
pub struct MacvtapTable {
    pub name: Word<String>,
    pub fd: Word<FdItem>,
    pub parent: Word<String>,
    pub mode: Word<String>,
    pub queues: Word<i64>,
}

/// `af_packet = { … }`, `af_xdp = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { dev = \"eth1\" }")]
pub struct DeviceTable {
    pub dev: Word<String>,
    pub queues: Word<i64>,
}

/// `sriov = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { pf = \"eth1\", vf = 3 }"
)]
pub struct SriovTable {
    pub pf: Word<String>,
    pub vf: Word<i64>,
    pub via: Word<String>,
    pub queues: Word<i64>,
    pub create: Word<i64>,
    pub mac: Word<String>,
    pub vlan: Word<i64>,
    pub spoofchk: Word<bool>,
    pub trust: Word<bool>,
    pub rate: Word<i64>,
}

/// One item of a VID list: a number, or a range such as `"20-29"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VidItem {
    One(i64),
    Range(String),
}

impl<'de> Deserialize<'de> for VidItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VidItem, D::Error> {
        struct Item;
        impl Visitor<'_> for Item {
            type Value = VidItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VID such as 10 or a range such as \"20-29\"")
            }
            fn visit_i64<E: de::Error>(self, vid: i64) -> Result<VidItem, E> {
                Ok(VidItem::One(vid))
            }
            fn visit_str<E: de::Error>(self, range: &str) -> Result<VidItem, E> {
                Ok(VidItem::Range(range.to_owned()))
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// `mac_policy`: a word, or `{ learn = N }`.
#[derive(Debug, Clone)]
pub enum MacPolicyItem {
    Named(String),
    Learn(Spanned<i64>),
}

impl<'de> Deserialize<'de> for MacPolicyItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MacPolicyItem, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Learn {
            learn: Spanned<i64>,
        }
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = MacPolicyItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"pinned\", \"trusted\" or { learn = N }")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<MacPolicyItem, E> {
                Ok(MacPolicyItem::Named(name.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<MacPolicyItem, A::Error> {
                let learn = Learn::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(MacPolicyItem::Learn(learn.learn))
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// A multicast group that a port has joined: its address, or `{ mac = "…", vid = N }`.
#[derive(Debug, Clone)]
pub struct JoinItem {
    pub mac: String,
    pub vid: Word<i64>,
}

impl<'de> Deserialize<'de> for JoinItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JoinItem, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Join {
            mac: String,
            vid: Word<i64>,
        }
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = JoinItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a group address or { mac = \"…\", vid = N }")
            }
            fn visit_str<E: de::Error>(self, mac: &str) -> Result<JoinItem, E> {
                Ok(JoinItem {
                    mac: mac.to_owned(),
                    vid: None,
                })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<JoinItem, A::Error> {
                let join = Join::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(JoinItem {
                    mac: join.mac,
                    vid: join.vid,
                })
            }
        }
        deserializer.deserialize_any(Item)
    }
}
