//! Why a device cannot be opened, and what the operator can do about it.
//!
//! Errors travel from the process that opens devices to the one that was asked for them.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::spec::MAX_QUEUES;
use super::sriov::SriovError;

/// Why a device cannot be opened. The text ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LinkError {
    /// No device can have the name.
    #[error(
        "{name:?} is no name for a network device; use 1 to 15 letters, digits, dashes and dots"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A link cannot have so many queues, or none.
    #[error("it cannot have {queues} queues; ask for 1 to {MAX_QUEUES}")]
    Queues {
        /// How many were asked for.
        queues: u16,
    },
    /// There is no such device.
    #[error("there is no device {device} in this network namespace; create it or correct the name")]
    Missing {
        /// The device.
        device: String,
    },
    /// The device is switched off.
    #[error("{device} is down; switch it on with `ip link set dev {device} up`")]
    Down {
        /// The device.
        device: String,
    },
    /// The device does not carry Ethernet frames.
    #[error("{device} carries no Ethernet frames; choose another device")]
    NotEthernet {
        /// The device.
        device: String,
    },
    /// A device that is there is not what it should be.
    #[error("{device} {wrong}")]
    NotAsStated {
        /// The device.
        device: String,
        /// What is wrong with it, and what would be right.
        wrong: String,
    },
    /// Another device has the name.
    #[error(
        "the name is taken by {found}; choose another, or remove that one with `ip link delete dev \
         {device}` if nobody needs it"
    )]
    NameTaken {
        /// The name.
        device: String,
        /// What has it.
        found: String,
    },
    /// The device exists and another process uses it.
    #[error("another process uses {device}; stop it or choose another name")]
    InUse {
        /// The device.
        device: String,
    },
    /// The device exists and has one queue only.
    #[error(
        "{device} exists and has one queue only; set `queues = 1`, or make it with `ip tuntap add \
         dev {device} mode tap multi_queue`"
    )]
    SingleQueue {
        /// The device.
        device: String,
    },
    /// The parent is what connects the host itself.
    #[error(
        "{parent} connects the host itself: {occupied}\n{}",
        recipe(parent, occupied)
    )]
    Occupied {
        /// The parent.
        parent: String,
        /// What it holds.
        occupied: Occupied,
    },
    /// The parent cannot be shared in this way.
    #[error(
        "{parent} is used by another MACVLAN or MACVTAP device, a bridge or a bond, and cannot be \
         shared so; look with `ip -d link show` who has it, and remove that or choose another device"
    )]
    ParentTaken {
        /// The parent.
        parent: String,
    },
    /// The address belongs to another device on the same parent.
    #[error("another device on {parent} has the same address; choose another `mac`")]
    AddressTaken {
        /// The parent.
        parent: String,
    },
    /// A descriptor that was handed in is not what it should be.
    #[error("descriptor {descriptor} {wrong}")]
    Handed {
        /// Its number.
        descriptor: i32,
        /// What is wrong with it, and what would be right.
        wrong: String,
    },
    /// `/sys` is that of another network namespace.
    #[error(
        "/sys does not show {device}: it belongs to another network namespace; start evb with `ip \
         netns exec`, or mount sysfs again in this namespace"
    )]
    Sysfs {
        /// The device.
        device: String,
    },
    /// The driver runs no XDP program, or the device is of a kind that hands over unfinished frames.
    #[error("AF_XDP does not work on {device}, {why}; use `af_packet = {{ dev = \"{device}\" }}`")]
    NoXdp {
        /// The device.
        device: String,
        /// What about it.
        why: String,
    },
    /// The device has an XDP program.
    #[error(
        "another XDP program is attached to {device}; stop the process that has attached it, or remove it with \
         `ip link set dev {device} xdp off`"
    )]
    XdpTaken {
        /// The device.
        device: String,
    },
    /// A feature by which frames would lose their tags, or come unfinished.
    #[error(
        "the feature {feature} of {device} stays on, by which frames would lose their VLAN tags or arrive \
         unfinished; switch it off with `ethtool -K {device} {feature} off`, or use `af_packet`"
    )]
    Feature {
        /// The device, or its peer.
        device: String,
        /// The kernel's name of the feature.
        feature: String,
    },
    /// The MTU is larger than what fits the memory of the sockets.
    #[error(
        "the MTU of {device} is {mtu}, and AF_XDP takes frames for {most} at most; set it with `ip link \
         set dev {device} mtu {most}`, or use `af_packet`"
    )]
    MtuTooLarge {
        /// The device.
        device: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that can be.
        most: u32,
    },
    /// The device has fewer receive queues.
    #[error(
        "{device} has {has} receive queues, and not {queues}; set `queues = {has}`, or look with `ethtool \
         -l {device}` whether it can have more"
    )]
    DeviceQueues {
        /// The device.
        device: String,
        /// How many were asked for.
        queues: u16,
        /// How many it has.
        has: u32,
    },
    /// The device has more receive queues than a link.
    #[error(
        "{device} has {has} receive queues, and a link has {MAX_QUEUES} at most; run `ethtool -L {device} combined \
         {MAX_QUEUES}`, or set `queues = {MAX_QUEUES}` if filters keep frames out of the others"
    )]
    ManyQueues {
        /// The device.
        device: String,
        /// How many it has.
        has: u32,
    },
    /// Another socket is bound to a queue of the device.
    #[error(
        "another process has an AF_XDP socket on queue {queue} of {device}; stop it, or choose another device"
    )]
    QueueTaken {
        /// The device.
        device: String,
        /// Number of the queue.
        queue: u16,
    },
    /// Each transmit queue of the other device of a pair needs a receive queue of this one.
    #[error(
        "{device} has fewer receive queues than its peer has transmit queues; give both as many with \
         `ethtool -L`"
    )]
    PeerQueues {
        /// The device.
        device: String,
    },
    /// A virtual function cannot be used.
    #[error(transparent)]
    Sriov(#[from] SriovError),
    /// The process lacks a capability.
    #[error(
        "{call} needs {capability}; start evb as root, or grant it with `setcap \
         cap_net_admin,cap_net_raw,cap_mknod,cap_dac_override,cap_bpf,cap_ipc_lock+ep` on its program file, \
         or in its unit with `AmbientCapabilities={capability}`"
    )]
    Capability {
        /// What was tried.
        call: String,
        /// What it needs.
        capability: String,
    },
    /// The operating system refused.
    #[error("{call}: {}{}", io::Error::from_raw_os_error(*errno), hint(*errno))]
    Os {
        /// What was tried.
        call: String,
        /// Its error.
        errno: i32,
    },
}

impl LinkError {
    /// The system refused `call`, which needs `CAP_NET_ADMIN`.
    pub(super) fn admin(call: impl Into<String>, error: &io::Error) -> Self {
        Self::system(call, "CAP_NET_ADMIN", error)
    }

    /// The system refused `call`, which needs `capability`.
    pub(super) fn system(call: impl Into<String>, capability: &str, error: &io::Error) -> Self {
        let call = call.into();
        // Errors that the standard library or a time-out made have no number.
        let errno = error.raw_os_error().unwrap_or(match error.kind() {
            io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            _ => libc::EIO,
        });
        if matches!(errno, libc::EPERM | libc::EACCES) {
            let capability = capability.to_owned();
            Self::Capability { call, capability }
        } else {
            Self::Os { call, errno }
        }
    }
}

fn hint(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT | libc::ENXIO => "; load the driver with `modprobe tun macvtap`",
        libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => "; the kernel lacks the driver",
        libc::EAFNOSUPPORT => "; the kernel lacks it (CONFIG_XDP_SOCKETS)",
        libc::ENOBUFS => "; raise the limit of locked memory (LimitMEMLOCK=)",
        libc::EMFILE | libc::ENFILE => "; raise the limit of open files (LimitNOFILE=)",
        libc::E2BIG => "; ask for fewer queues",
        libc::EINVAL | libc::ERANGE => "; look into the kernel's log, or try a smaller `mtu`",
        libc::EADDRNOTAVAIL => "; `mac` must be a unicast address",
        _ => "",
    }
}

/// What of the host depends on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupied {
    /// Its addresses, with their prefix lengths; those of IPv6 that every device has are left out.
    pub addresses: Vec<String>,
    /// Default routes that lead over it: the gateways, or `on-link`.
    pub default_routes: Vec<String>,
    /// What other devices hold that get their frames from it.
    pub above: Vec<Standing>,
}

/// A device that gets its frames from another, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name.
    pub device: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Default routes that lead over it.
    pub default_routes: Vec<String>,
}

impl Occupied {
    /// Whether the device can be taken without harm.
    pub fn is_free(&self) -> bool {
        self.addresses.is_empty() && self.default_routes.is_empty() && self.above.is_empty()
    }
}

/// `it` has these.
fn holds(it: &str, addresses: &[String], default_routes: &[String]) -> String {
    let mut parts = vec![];
    if !addresses.is_empty() {
        parts.push(format!("{it} has the address {}", addresses.join(", ")));
    }
    if !default_routes.is_empty() {
        let it = if parts.is_empty() { it } else { "it" };
        let routes = default_routes.join(", ");
        parts.push(format!("the default route by {routes} leads over {it}"));
    }
    parts.join(" and ")
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = holds("it", &self.addresses, &self.default_routes);
        let above = self.above.iter().map(|standing| {
            let it = format!("{}, which stands on it,", standing.device);
            holds(&it, &standing.addresses, &standing.default_routes)
        });
        let all = std::iter::once(own).chain(above);
        let all: Vec<_> = all.filter(|text| !text.is_empty()).collect();
        f.write_str(&all.join("; "))
    }
}

/// How the host keeps its connection when the relay takes the device.
fn recipe(parent: &str, occupied: &Occupied) -> String {
    let advice = "Choose another device, or let the host have a port of the relay and take the \
                  device:\n  [[port]]\n  name = \"host\"\n  relay = \"RELAY\"\n  \
                  tap = { name = \"evb0\" }\nwith `take_parent = true` in the [[uplink]], and as \
                  soon as evb runs move what the host needs:";
    let above = occupied
        .above
        .iter()
        .map(|standing| (standing.device.as_str(), &standing.addresses));
    let addresses = std::iter::once((parent, &occupied.addresses)).chain(above);
    let addresses = addresses.flat_map(|(device, addresses)| {
        addresses.iter().map(move |address| {
            format!("ip address del {address} dev {device}; ip address add {address} dev evb0")
        })
    });
    let above = occupied.above.iter().flat_map(|it| &it.default_routes);
    let routes = occupied.default_routes.iter().chain(above).map(|route| {
        let way = match route.as_str() {
            "on-link" => String::new(),
            gateway => format!("via {gateway} "),
        };
        let family = if route.contains(':') { "-6 " } else { "" };
        format!("ip {family}route replace default {way}dev evb0")
    });
    let lines = std::iter::once(advice.to_owned())
        .chain(addresses)
        .chain(routes);
    lines.collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_moves_what_the_host_needs() {
        let occupied = Occupied {
            addresses: vec!["192.0.2.5/24".into()],
            default_routes: vec!["192.0.2.1".into(), "fe80::1".into()],
            above: vec![Standing {
                device: "br0".into(),
                addresses: vec!["10.0.0.1/8".into()],
                default_routes: vec!["on-link".into()],
            }],
        };
        let error = LinkError::Occupied {
            parent: "eth1".into(),
            occupied,
        };
        let expected = "eth1 connects the host itself: it has the address 192.0.2.5/24 and the \
                        default route by 192.0.2.1, fe80::1 leads over it; br0, which stands on it, has \
                        the address 10.0.0.1/8 and the default route by on-link leads over it\n\
                        Choose another device, or let the host have a port of the relay and take \
                        the device:\n  \
                        [[port]]\n  name = \"host\"\n  relay = \"RELAY\"\n  tap = { name = \"evb0\" \
                        }\nwith `take_parent = true` in the [[uplink]], and as soon as evb runs \
                        move what the host needs:\n  \
                        ip address del 192.0.2.5/24 dev eth1; ip address add 192.0.2.5/24 dev \
                        evb0\n  \
                        ip address del 10.0.0.1/8 dev br0; ip address add 10.0.0.1/8 dev evb0\n  \
                        ip route replace default via 192.0.2.1 dev evb0\n  \
                        ip -6 route replace default via fe80::1 dev evb0\n  \
                        ip route replace default dev evb0";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_missing_capability_is_named_with_the_command_that_grants_it() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let text = LinkError::admin("making a TAP device", &denied).to_string();
        assert!(
            text.starts_with("making a TAP device needs CAP_NET_ADMIN; "),
            "{text}"
        );
        assert!(text.contains("`setcap cap_net_admin,"), "{text}");
        assert!(
            text.contains("`AmbientCapabilities=CAP_NET_ADMIN`"),
            "{text}"
        );
    }
}
