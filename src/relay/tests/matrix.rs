//! Both tables of §1, cell by cell, in the product of modes, classes of frames and kinds of VLAN
//! port; and the same with `reflect = "local"`.

use super::{Copies, Net, bridge, frame, mac, pinned, slot, trunk, vid};
use crate::frame::ethernet::{TPID_C, TPID_S};
use crate::frame::mac::Mac;
use crate::relay::{Mode, Multicast, PortConfig, RelayConfig, StaticGroup, VlanConfig};
use crate::stats::DropReason;

/// The ports, in the order of their slots. Senders have the number 0. B1 floods unknown
/// destinations and V1 is promiscuous; the others of their mode are not. X1 and X2 are a bridge
/// and a VEPA port in another VLAN, where there is one.
const NAMES: [&str; 10] = ["B0", "B1", "B2", "V0", "V1", "P0", "P1", "U", "X1", "X2"];
const UPLINK: usize = 7;
const VLAN: u16 = 10;

const UNKNOWN: u64 = 0x99;
const OUTSIDE: u64 = 0x77;
const OTHER_OUTSIDE: u64 = 0x78;
const JOINED: Mac = Mac::new([0x01, 0x00, 0x5e, 1, 2, 3]);
const NOT_JOINED: Mac = Mac::new([0x01, 0x00, 0x5e, 1, 2, 4]);

/// How a port is in the VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No key.
    None,
    Access,
    Native,
    Tagged,
    Translate,
    Qinq,
}

const KEYED: [Kind; 5] = [
    Kind::Access,
    Kind::Native,
    Kind::Tagged,
    Kind::Translate,
    Kind::Qinq,
];

impl Kind {
    fn config(self, number: u16) -> VlanConfig {
        match self {
            Kind::None => VlanConfig::Flat,
            Kind::Access => VlanConfig::Access(vid(number)),
            Kind::Native => trunk(&[number, 30], Some(number)),
            Kind::Tagged => trunk(&[number, 30], Some(30)),
            Kind::Translate => VlanConfig::Translate([(vid(number + 100), vid(number))].into()),
            Kind::Qinq => VlanConfig::Qinq(vid(number)),
        }
    }
}

/// The kinds of the local ports and of the uplink.
#[derive(Clone, Copy, Debug)]
struct Setup {
    local: Kind,
    uplink: Kind,
}

impl Setup {
    fn all() -> Vec<Setup> {
        let flat = Setup {
            local: Kind::None,
            uplink: Kind::None,
        };
        let keyed = KEYED.into_iter().flat_map(|local| {
            let uplinks = KEYED.into_iter().chain([Kind::None]);
            uplinks.map(move |uplink| Setup { local, uplink })
        });
        std::iter::once(flat).chain(keyed).collect()
    }

    /// The frame as it is on the wire of a port of this kind.
    fn wire(self, kind: Kind, dst: Mac, src: Mac) -> Vec<u8> {
        let qinq = self.local == Kind::Qinq || self.uplink == Kind::Qinq;
        let tpid = if qinq { TPID_S } else { TPID_C };
        let flat = self.local == Kind::None;
        match kind {
            Kind::None if flat => frame(dst, src, &[0x0800]),
            Kind::Access | Kind::Native | Kind::Qinq => frame(dst, src, &[0x0800]),
            Kind::None | Kind::Tagged => frame(dst, src, &[tpid, VLAN, 0x0800]),
            Kind::Translate => frame(dst, src, &[tpid, VLAN + 100, 0x0800]),
        }
    }

    fn net(self, config: RelayConfig, change: impl Fn(usize, &mut PortConfig)) -> Net {
        let vlan = || self.local.config(VLAN);
        let mut ports = vec![
            pinned(Mode::Bridge, vlan(), mac(0)),
            bridge(vlan()),
            pinned(Mode::Bridge, vlan(), mac(2)),
            pinned(Mode::Vepa, vlan(), mac(3)),
            pinned(Mode::Vepa, vlan(), mac(4)),
            pinned(Mode::Private, vlan(), mac(5)),
            pinned(Mode::Private, vlan(), mac(6)),
            PortConfig::uplink(self.uplink.config(VLAN), true),
        ];
        ports[4].promiscuous = true;
        if self.local != Kind::None {
            let other = || VlanConfig::Access(vid(20));
            ports.push(bridge(other()));
            ports.push(pinned(Mode::Vepa, other(), mac(9)));
            ports[9].promiscuous = true;
        }
        for index in [1, 4, 6] {
            ports[index].groups.push(StaticGroup {
                mac: JOINED,
                vid: (self.local != Kind::None && index != 4).then(|| vid(VLAN)),
            });
        }
        for (index, port) in ports.iter_mut().enumerate() {
            change(index, port);
        }
        let net = Net::new(config, ports);
        // B1 learns its address, and the uplink an outside one.
        let _ = net.send(1, &self.wire(self.local, mac(0xfff), mac(1)));
        let _ = net.send(UPLINK, &self.wire(self.uplink, mac(0xfff), mac(OUTSIDE)));
        net
    }

    /// Sends a frame, checks the bytes of all copies, and names the receivers.
    fn receivers(self, net: &Net, from: usize, dst: Mac, src: Mac) -> String {
        let kind = |index| {
            if index == UPLINK {
                self.uplink
            } else {
                self.local
            }
        };
        let sent = self.wire(kind(from), dst, src);
        let copies = net.send(from, &sent).unwrap_or_else(|_| Copies::new());
        for (to, copy) in &copies {
            let name = NAMES[*to];
            assert_eq!(*copy, self.wire(kind(*to), dst, src), "{self:?}, at {name}");
        }
        let names: Vec<&str> = copies.keys().map(|index| NAMES[*index]).collect();
        names.join(" ")
    }
}

/// A row of a table: the class, the destination for sender `s`, and the receivers by sender.
type Row = (&'static str, fn(u64) -> Mac, [&'static str; 3]);

fn to_b1(_: u64) -> Mac {
    mac(1)
}
fn to_v1(_: u64) -> Mac {
    mac(4)
}
fn to_p1(_: u64) -> Mac {
    mac(6)
}
fn to_outside(_: u64) -> Mac {
    mac(OUTSIDE)
}
fn to_unknown(_: u64) -> Mac {
    mac(UNKNOWN)
}
fn to_itself(sender: u64) -> Mac {
    mac(sender)
}
fn to_all(_: u64) -> Mac {
    Mac::BROADCAST
}
fn to_joined(_: u64) -> Mac {
    JOINED
}
fn to_not_joined(_: u64) -> Mac {
    NOT_JOINED
}
fn to_reserved(_: u64) -> Mac {
    Mac::new([0x01, 0x80, 0xc2, 0, 0, 3])
}

fn snooping(reflect_local: bool) -> RelayConfig {
    RelayConfig {
        multicast: Multicast::Groups {
            flood_unregistered: false,
        },
        reflect_local,
        ..RelayConfig::default()
    }
}

/// Checks rows whose columns are the senders B0, V0 and P0, in every kind of VLAN.
fn check_rows(
    title: &str,
    config: &RelayConfig,
    change: impl Fn(usize, &mut PortConfig) + Copy,
    by_uplink: bool,
    rows: &[Row],
) {
    for setup in Setup::all() {
        // The frames of the rows teach nothing new.
        let net = setup.net(config.clone(), change);
        for (class, destination, cells) in rows {
            for (sender, expected) in [0, 3, 5].into_iter().zip(cells) {
                let from = if by_uplink { UPLINK } else { sender };
                let source = sender as u64;
                let got = setup.receivers(&net, from, destination(source), mac(source));
                let name = NAMES[sender];
                assert_eq!(got, *expected, "{title}: {class}, {name}, {setup:?}");
            }
        }
    }
}

#[test]
fn table_1_from_a_local_port() {
    let rows: [Row; 11] = [
        // Class, destination, from a bridge, a vepa and a private port.
        ("unicast, known local bridge", to_b1, ["B1", "U", "U"]),
        ("unicast, known local vepa", to_v1, ["U", "U", "U"]),
        ("unicast, known local private", to_p1, ["U", "U", "U"]),
        ("unicast, known on the uplink", to_outside, ["U", "U", "U"]),
        ("unicast, unknown", to_unknown, ["B1 U", "U", "U"]),
        ("unicast to its own MAC", to_itself, ["", "U", "U"]),
        ("broadcast", to_all, ["B1 B2 U", "U", "U"]),
        ("multicast, joined", to_joined, ["B1 U", "U", "U"]),
        ("multicast, not joined", to_not_joined, ["U", "U", "U"]),
        ("reserved", to_reserved, ["", "", ""]),
        (
            "pause",
            |_| Mac::new([1, 0x80, 0xc2, 0, 0, 1]),
            ["", "", ""],
        ),
    ];
    check_rows("table 1", &snooping(false), |_, _| (), false, &rows);
}

#[test]
fn table_1_spoofed_sources() {
    for setup in Setup::all() {
        let net = setup.net(snooping(false), |_, _| ());
        for sender in [0, 3, 5] {
            for dst in [mac(1), mac(UNKNOWN), Mac::BROADCAST] {
                let sent = setup.wire(setup.local, dst, mac(0x55));
                assert_eq!(net.send(sender, &sent), Err(DropReason::Spoofed));
            }
            let refused = net.state(sender).take_report().refused;
            assert_eq!(refused, Some(mac(0x55)));
        }
        // A registered address on a port that learns.
        let sent = setup.wire(setup.local, mac(2), mac(0));
        assert_eq!(net.send(1, &sent), Err(DropReason::AddressTaken));
    }
}

#[test]
fn table_1_with_local_reflection() {
    let rows: [Row; 10] = [
        ("unicast, known local bridge", to_b1, ["B1", "B1", ""]),
        ("unicast, known local vepa", to_v1, ["V1", "V1", ""]),
        ("unicast, known local private", to_p1, ["", "", ""]),
        ("unicast, known on the uplink", to_outside, ["U", "U", "U"]),
        ("unicast, unknown", to_unknown, ["B1 V1 U", "B1 V1 U", "U"]),
        ("unicast to its own MAC", to_itself, ["", "", ""]),
        ("broadcast", to_all, ["B1 B2 V0 V1 U", "B0 B1 B2 V1 U", "U"]),
        ("multicast, joined", to_joined, ["B1 V1 U", "B1 V1 U", "U"]),
        ("multicast, not joined", to_not_joined, ["U", "U", "U"]),
        ("reserved", to_reserved, ["", "", ""]),
    ];
    check_rows("local reflection", &snooping(true), |_, _| (), false, &rows);
    // What comes from the uplink with a local source drops.
    let nobody: Vec<Row> = rows.iter().map(|row| (row.0, row.1, [""; 3])).collect();
    check_rows("from the wire", &snooping(true), |_, _| (), true, &nobody);
}

#[test]
fn table_2_source_outside() {
    // By destination; the column is the mode of the receiver.
    let rows: [(&str, Mac, &str); 11] = [
        ("unicast to a bridge port", mac(1), "B1"),
        ("unicast to a pinned bridge port", mac(2), "B2"),
        ("unicast to a vepa port", mac(3), "V0"),
        ("unicast to a promiscuous vepa port", mac(4), "V1"),
        ("unicast to a private port", mac(6), "P1"),
        ("unicast, unknown", mac(UNKNOWN), "B1 V1"),
        ("unicast, on the uplink itself", mac(OUTSIDE), ""),
        ("broadcast", Mac::BROADCAST, "B0 B1 B2 V0 V1 P0 P1"),
        ("multicast, joined", JOINED, "B1 V1 P1"),
        ("multicast, not joined", NOT_JOINED, ""),
        ("reserved", to_reserved(0), ""),
    ];
    for reflect_local in [false, true] {
        for setup in Setup::all() {
            let net = setup.net(snooping(reflect_local), |_, _| ());
            for (class, dst, expected) in rows {
                let got = setup.receivers(&net, UPLINK, dst, mac(OTHER_OUTSIDE));
                assert_eq!(got, expected, "{class}, {setup:?}");
            }
        }
    }
}

#[test]
fn table_2_reflected() {
    let rows: [Row; 10] = [
        // Class, destination, by the mode of the sender S: bridge, vepa, private.
        ("unicast to a bridge port", to_b1, ["", "B1", ""]),
        ("unicast to a vepa port", to_v1, ["V1", "V1", ""]),
        ("unicast to a private port", to_p1, ["", "", ""]),
        ("unicast to S", to_itself, ["", "", ""]),
        ("unicast to the uplink", to_outside, ["", "", ""]),
        ("unicast, unknown", to_unknown, ["V1", "B1 V1", ""]),
        ("broadcast", to_all, ["V0 V1", "B0 B1 B2 V1", ""]),
        ("multicast, joined", to_joined, ["V1", "B1 V1", ""]),
        ("multicast, not joined", to_not_joined, ["", "", ""]),
        ("reserved", to_reserved, ["", "", ""]),
    ];
    check_rows("reflected", &snooping(false), |_, _| (), true, &rows);
}

#[test]
fn table_2_reflected_with_accept_own_src() {
    let rows: [Row; 6] = [
        ("unicast to S", to_itself, ["B0", "V0", "P0"]),
        ("unicast to a private port", to_p1, ["", "", ""]),
        ("unicast, unknown", to_unknown, ["V1", "B1 V1", ""]),
        ("broadcast", to_all, ["B0 V0 V1", "B0 B1 B2 V0 V1", "P0"]),
        // The senders have not joined.
        ("multicast, joined", to_joined, ["V1", "B1 V1", ""]),
        (
            "multicast that is never pruned",
            |_| Mac::new([0x33, 0x33, 0, 0, 0, 1]),
            ["B0 V0 V1", "B0 B1 B2 V0 V1", "P0"],
        ),
    ];
    let accept = |_: usize, port: &mut PortConfig| port.accept_own_src = true;
    check_rows("accept_own_src", &snooping(false), accept, true, &rows);
    // Directly, a port still does not get what it sent itself.
    let rows: [Row; 2] = [
        ("unicast to its own MAC", to_itself, ["", "U", "U"]),
        ("broadcast", to_all, ["B1 B2 U", "U", "U"]),
    ];
    check_rows("accept_own_src", &snooping(false), accept, false, &rows);
}

#[test]
fn multicast_flood_counts_everyone_as_joined() {
    let rows: [Row; 2] = [
        ("joined", to_joined, ["B1 B2 U", "U", "U"]),
        ("not joined", to_not_joined, ["B1 B2 U", "U", "U"]),
    ];
    check_rows("flood", &RelayConfig::default(), |_, _| (), false, &rows);
    let unregistered = RelayConfig {
        multicast: Multicast::Groups {
            flood_unregistered: true,
        },
        ..RelayConfig::default()
    };
    let rows: [Row; 2] = [
        ("joined", to_joined, ["B1 U", "U", "U"]),
        ("not joined", to_not_joined, ["B1 B2 U", "U", "U"]),
    ];
    check_rows("unregistered", &unregistered, |_, _| (), false, &rows);
    let router = |index: usize, port: &mut PortConfig| port.multicast_router = index == 2;
    let rows: [Row; 2] = [
        ("joined", to_joined, ["B1 B2 U", "U", "U"]),
        ("not joined", to_not_joined, ["B2 U", "U", "U"]),
    ];
    check_rows("router", &snooping(false), router, false, &rows);
}

#[test]
fn a_reflective_bridge_port_is_the_adjacent_switch() {
    let reflective = |index: usize, port: &mut PortConfig| {
        port.reflective = index == 0 || index == UPLINK;
        port.flood_unknown |= index == 0;
    };
    // Known on its own port, group and unknown: back to it as well. The station filters.
    let rows: [Row; 4] = [
        ("unicast to its own port", to_itself, ["B0", "U", "U"]),
        ("unicast, unknown", to_unknown, ["B0 B1 U", "U", "U"]),
        ("broadcast", to_all, ["B0 B1 B2 U", "U", "U"]),
        ("unicast, known local bridge", to_b1, ["B1", "U", "U"]),
    ];
    check_rows(
        "reflective",
        &RelayConfig::default(),
        reflective,
        false,
        &rows,
    );
}

#[test]
fn inactive_ports_neither_send_nor_receive_nor_own() {
    for setup in Setup::all() {
        let mut net = setup.net(snooping(false), |_, _| ());
        net.active.remove(slot(4));
        let got = |net: &Net, from, dst, src| setup.receivers(net, from, dst, src);
        assert_eq!(got(&net, 4, Mac::BROADCAST, mac(4)), "");
        assert_eq!(got(&net, 3, Mac::BROADCAST, mac(3)), "U");
        let all = got(&net, UPLINK, Mac::BROADCAST, mac(OTHER_OUTSIDE));
        assert_eq!(all, "B0 B1 B2 V0 P0 P1");
        // Its address is now one like any other: unknown inside, outside where it comes from.
        assert_eq!(got(&net, UPLINK, mac(4), mac(OTHER_OUTSIDE)), "B1");
        assert_eq!(got(&net, UPLINK, mac(3), mac(4)), "V0");
        assert_eq!(got(&net, 0, mac(4), mac(0)), "U");
        // Without an uplink, what must go up drops.
        net.active.remove(slot(UPLINK));
        assert_eq!(got(&net, 3, mac(1), mac(3)), "");
        assert_eq!(got(&net, 0, Mac::BROADCAST, mac(0)), "B1 B2");
    }
}
