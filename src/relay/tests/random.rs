//! Random relays and histories: what leaves must be what leaves the model, byte for byte.
//!
//! `EVB_MODEL_RELAYS` sets the number of relays for a long run, `EVB_MODEL_SEED` the first seed.

use super::{Net, frame, mac, slot, vid, vids};
use crate::frame::mac::Mac;
use crate::relay::model::Model;
use crate::relay::{
    MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, StaticGroup, VlanConfig,
};

const FRAMES: usize = 400;

/// A small generator of random choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn vid(&mut self) -> u16 {
        self.pick(&[10, 20, 30, 4094])
    }

    fn some_vids(&mut self) -> Vec<u16> {
        [10, 20, 30, 4094]
            .into_iter()
            .filter(|_| self.below(3) != 0)
            .collect()
    }

    fn station(&mut self) -> Mac {
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
            [0x01, 0x80, 0xc2, 0, 0, 1],
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

    fn port(&mut self, flat: bool, modes: &[Mode]) -> PortConfig {
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
        port.mtu = self.one_in(4).then(|| self.pick(&[46, 50, 54]));
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

    fn relay(&mut self) -> (RelayConfig, Vec<PortConfig>) {
        let config = RelayConfig {
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
            max_entries: self.pick(&[4, 100]),
        };
        if self.one_in(12) {
            let local = self.port(true, &[Mode::Passthrough]);
            let uplink = PortConfig::uplink(VlanConfig::Flat, self.one_in(2));
            let mut ports = vec![local, uplink];
            if self.one_in(2) {
                ports.reverse();
            }
            return (config, ports);
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
            let vlan = match self.below(3) {
                _ if flat => VlanConfig::Flat,
                0 => VlanConfig::Flat,
                _ => self.vlan(),
            };
            let mut uplink = PortConfig::uplink(vlan, self.one_in(2));
            uplink.default_pcp = self.below(8) as u8;
            if self.one_in(4) {
                uplink.mac_policy = MacPolicy::Trusted { limit: 3 };
            }
            let at = self.below(count + 1) as usize;
            ports.insert(at, uplink);
        }
        (config, ports)
    }

    /// A frame whose source is often one that the port may use.
    fn frame(&mut self, port: &PortConfig) -> Vec<u8> {
        let dst = match self.below(8) {
            0..=4 => self.station(),
            5 | 6 => self.group(),
            _ => mac(self.below(200)),
        };
        let src = match self.below(12) {
            0 => Mac::default(),
            1 => self.group(),
            2..=6 if port.role == Role::Local && !port.macs.is_empty() => self.pick(&port.macs),
            _ => self.station(),
        };
        let mut words = Vec::new();
        let tags = self.pick(&[0, 0, 1, 1, 1, 2, 3]);
        for _ in 0..tags {
            words.push(self.pick(&[0x8100, 0x8100, 0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100]));
            let number = self.pick(&[0, 10, 10, 20, 20, 30, 4094, 4095, 110, 120, 77]);
            words.push((self.below(16) as u16 * 0x1000) | number);
        }
        let ethertypes = [0x0800, 0x86dd, 0x88cc, 0x8808, 0x8940, 0x893f, 0x8100];
        let usual = !self.one_in(6);
        words.push(if usual {
            0x0800
        } else {
            self.pick(&ethertypes)
        });
        let mut bytes = frame(dst, src, &words);
        if self.one_in(20) {
            bytes.truncate(self.below(24) as usize);
        }
        bytes
    }
}

/// One relay and its history.
fn history(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (config, ports) = dice.relay();
    let flat = ports.iter().all(|port| port.vlan == VlanConfig::Flat);
    let mut model = Model::new(config.clone(), ports.clone());
    let mut net = Net::new(config, ports);
    let count = net.relay.ports.len() as u64;
    for step in 0..FRAMES {
        let port = dice.below(count) as usize;
        match dice.below(40) {
            0 => {
                let up = dice.one_in(2);
                model.active[port] = up;
                if up {
                    net.active.insert(slot(port));
                } else {
                    net.active.remove(slot(port));
                }
            }
            1 => {
                model.port_down(port);
                net.relay.port_down(slot(port));
            }
            2 | 3 => {
                net.now += dice.pick(&[1, 3, 11, 200, 301]);
                model.sweep(net.now);
                net.relay.fdb().sweep(net.now, usize::MAX);
            }
            4 => {
                let number = if flat { None } else { Some(dice.vid()) };
                let address = dice.station();
                let key = number.unwrap_or(0);
                if dice.one_in(2) {
                    let added = net.relay.add_static(number.map(vid), address, slot(port));
                    assert_eq!(added.is_ok(), model.add_static(key, address, port));
                } else {
                    let removed = net.relay.remove_static(number.map(vid), address);
                    assert_eq!(removed, model.remove_static(key, address));
                }
            }
            5 if dice.one_in(4) => {
                let change = dice.port(flat, &[model.ports[port].mode]);
                if model.ports[port].role == Role::Local {
                    model.ports[port] = change;
                }
                let (config, ports) = (model.config.clone(), model.ports.clone());
                net.rebuild(config, |index, port| *port = ports[index].clone());
            }
            _ => {}
        }
        let bytes = dice.frame(&model.ports[port]);
        let expected = model.send(port, &bytes, net.now);
        let got = net.send(port, &bytes).unwrap_or_default();
        let explain = || format!("seed {seed}, step {step}, port {port}: {bytes:02x?}\n{model:#?}");
        assert_eq!(got, expected.clone().into_iter().collect(), "{}", explain());
        assert_eq!(net.relay.fdb().len(), model.len(), "{}", explain());
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn random_histories_agree_with_the_model() {
    let first = setting("EVB_MODEL_SEED", 1);
    for seed in first..first + setting("EVB_MODEL_RELAYS", 400) {
        history(seed);
    }
}
