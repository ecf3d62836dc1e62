//! Random relays, changes and frames.

use super::{frame, mac, vid, vids};
use crate::frame::mac::Mac;
use crate::relay::{
    MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, StaticGroup, VlanConfig,
};

/// The most addresses that a random relay holds.
pub(super) const MAX_ENTRIES: u32 = 100;

/// A frame, and the length of the longest segment that it is to be cut to.
pub(super) type Offered = (Vec<u8>, Option<u32>);

/// A small generator of random choices.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(super) fn vid(&mut self) -> u16 {
        self.pick(&[10, 20, 30, 4094])
    }

    fn some_vids(&mut self) -> Vec<u16> {
        [10, 20, 30, 4094]
            .into_iter()
            .filter(|_| self.below(3) != 0)
            .collect()
    }

    pub(super) fn station(&mut self) -> Mac {
        mac(self.below(12))
    }

    fn group(&mut self) -> Mac {
        let groups = [
            [0xff; 6],
            [0x01, 0x00, 0x5e, 1, 1, 1],
            [0x01, 0x00, 0x5e, 2, 2, 2],
            [0x01, 0x00, 0x5e, 0, 0, 7],
            [0x33, 0x33, 0, 0, 0, 1],
            [0x01, 0x80, 0xc2, 0, 0, 0x0e],
            [0x01, 0x80, 0xc2, 0, 0, 0],
            [0x01, 0x80, 0xc2, 0, 0, 1],
            [0x01, 0x80, 0xc2, 0, 0, 2],
            [0x01, 0x80, 0xc2, 0, 0, 3],
        ];
        let group = self.pick(&groups);
        if self.one_in(2) {
            Mac::BROADCAST
        } else {
            Mac::new(group)
        }
    }

    fn vlan(&mut self) -> VlanConfig {
        match self.below(8) {
            0..=2 => VlanConfig::Access(vid(self.vid())),
            3..=5 => VlanConfig::Trunk {
                vids: vids(&self.some_vids()),
                native: self.one_in(2).then(|| vid(self.vid())),
            },
            6 => {
                let mut outside = [10, 20, 110, 120];
                let by = self.below(4) as usize;
                outside.rotate_left(by);
                let inside = self.some_vids();
                let pairs = outside.into_iter().zip(inside);
                VlanConfig::Translate(pairs.map(|(e, i)| (vid(e), vid(i))).collect())
            }
            _ => VlanConfig::Qinq(vid(self.pick(&[30, 4094]))),
        }
    }

    fn policy(&mut self) -> MacPolicy {
        match self.below(4) {
            0 => MacPolicy::Pinned,
            1 => MacPolicy::Trusted { limit: 1024 },
            _ => MacPolicy::Learn(1 + self.below(5) as u32),
        }
    }

    pub(super) fn port(&mut self, flat: bool, modes: &[Mode]) -> PortConfig {
        let vlan = if flat { VlanConfig::Flat } else { self.vlan() };
        let mode = self.pick(modes);
        let macs = match self.below(3) {
            0 => vec![],
            1 => vec![self.station()],
            _ => vec![self.station(), self.station()],
        };
        let mut port = PortConfig::local(mode, vlan, macs);
        if mode == Mode::Bridge || mode == Mode::Passthrough {
            port.mac_policy = self.policy();
        }
        port.flood_unknown = self.one_in(2);
        port.promiscuous = self.one_in(2);
        port.accept_own_src = self.one_in(4);
        port.reflective = self.one_in(6);
        port.multicast_router = self.one_in(6);
        port.standby = self.one_in(10);
        port.default_pcp = self.below(8) as u8;
        port.mtu = self.mtu();
        for _ in 0..self.below(3) {
            let group = self.group();
            let only = (!flat && self.one_in(2)).then(|| vid(self.vid()));
            port.groups.push(StaticGroup {
                mac: group,
                vid: only,
            });
        }
        port
    }

    pub(super) fn uplink(&mut self, flat: bool) -> PortConfig {
        let vlan = match self.below(3) {
            _ if flat => VlanConfig::Flat,
            0 => VlanConfig::Flat,
            _ => self.vlan(),
        };
        let mut uplink = PortConfig::uplink(vlan, self.one_in(2));
        uplink.default_pcp = self.below(8) as u8;
        uplink.mtu = self.mtu();
        if self.one_in(4) {
            uplink.mac_policy = MacPolicy::Trusted { limit: 3 };
        }
        uplink
    }

    fn mtu(&mut self) -> Option<u16> {
        self.one_in(4).then(|| self.pick(&[46, 50, 54]))
    }

    /// The settings of a relay, apart from its ports.
    pub(super) fn settings(&mut self) -> RelayConfig {
        RelayConfig {
            ageing: self.pick(&[300, 300, 300, 20, 0]),
            reflect_local: self.one_in(3),
            multicast: self.pick(&[
                Multicast::Flood,
                Multicast::Groups {
                    flood_unregistered: true,
                },
                Multicast::Groups {
                    flood_unregistered: false,
                },
            ]),
            group_fwd_mask: self.pick(&[0, 0xffff, 0x4000]),
            fids: if self.one_in(3) {
                vec![vids(&[10, 20]), vids(&[30])]
            } else {
                vec![]
            },
            max_entries: self.pick(&[4, MAX_ENTRIES]),
        }
    }

    /// A relay, and the modes that its local ports may have.
    pub(super) fn relay(&mut self) -> (RelayConfig, Vec<PortConfig>, &'static [Mode]) {
        let config = self.settings();
        if self.one_in(12) {
            let local = self.port(true, &[Mode::Passthrough]);
            let uplink = self.uplink(true);
            let mut ports = vec![local, uplink];
            if self.one_in(2) {
                ports.reverse();
            }
            return (config, ports, &[Mode::Passthrough]);
        }
        let flat = self.one_in(4);
        let modes = self.pick(&[
            &[Mode::Bridge][..],
            &[Mode::Vepa, Mode::Private],
            &[Mode::Bridge, Mode::Private],
            &[Mode::Bridge, Mode::Vepa, Mode::Private],
            &[Mode::Bridge, Mode::Vepa],
        ]);
        let count = 1 + self.below(8);
        let mut ports: Vec<_> = (0..count).map(|_| self.port(flat, modes)).collect();
        if !self.one_in(5) {
            let uplink = self.uplink(flat);
            let at = self.below(count + 1) as usize;
            ports.insert(at, uplink);
        }
        (config, ports, modes)
    }

    /// A frame whose source is often one that the port may use, or `roamer`, who is everywhere.
    pub(super) fn frame(&mut self, port: &PortConfig, roamer: Option<Mac>) -> Offered {
        let dst = match self.below(8) {
            0..=4 => self.station(),
            5 | 6 => self.group(),
            _ => mac(self.below(200)),
        };
        let src = match self.below(12) {
            0 => Mac::default(),
            1 => self.group(),
            2..=8 if roamer.is_some() => roamer.unwrap_or_default(),
            2..=6 if port.role == Role::Local && !port.macs.is_empty() => self.pick(&port.macs),
            _ => self.station(),
        };
        let mut words = Vec::new();
        let link = dst.to_u64() >> 4 == 0x0180_c200_0000 >> 4;
        let tags = if link && self.one_in(2) {
            0
        } else {
            self.pick(&[0, 0, 1, 1, 1, 2, 3])
        };
        for _ in 0..tags {
            words.push(self.pick(&[0x8100, 0x8100, 0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100]));
            let number = self.pick(&[0, 10, 10, 20, 20, 30, 4094, 4095, 110, 120, 77]);
            words.push((self.below(16) as u16 * 0x1000) | number);
        }
        let ethertypes = [
            0x0800, 0x86dd, 0x88cc, 0x8808, 0x8809, 0x8940, 0x893f, 0x8100,
        ];
        let usual = !self.one_in(if link { 2 } else { 6 });
        words.push(if usual {
            0x0800
        } else {
            self.pick(&ethertypes)
        });
        let mut bytes = frame(dst, src, &words);
        if self.one_in(20) {
            bytes.truncate(self.below(24) as usize);
            return (bytes, None);
        }
        let segment = self.one_in(6).then(|| {
            let longest = self.pick(&[58, 64, 72]);
            // What is to be cut is longer than its segments.
            let length = longest as usize + 1 + self.below(100) as usize;
            bytes.resize(length.max(bytes.len()), 0x5a);
            longest
        });
        (bytes, segment)
    }
}
