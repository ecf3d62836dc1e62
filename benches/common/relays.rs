//! Relays of any size, and frames that cross them.

use std::sync::Arc;

use evb::frame::ethernet::{self, Header, Vid};
use evb::frame::mac::Mac;
use evb::relay::{
    Fdb, Frame, MacPolicy, Mode, Port, PortConfig, PortSet, Relay, RelayConfig, Slot, Verdict,
    VidSet, View, VlanConfig,
};

/// How large a relay is.
#[derive(Clone, Copy)]
pub struct Size {
    /// Ports, all in bridge mode.
    pub ports: usize,
    /// VLANs, with all ports in each; 0 for a flat relay.
    pub vlans: u16,
    /// Addresses, spread evenly over ports and VLANs.
    pub entries: u64,
}

/// The number of an address that nobody has.
pub const NOBODY: u64 = 0xff_ffff_ffff;

/// A relay and its clock.
pub struct Net {
    size: Size,
    relay: Relay,
    active: PortSet,
    targets: PortSet,
    /// Seconds of its clock.
    pub now: u32,
}

/// A frame at a port.
pub struct Sent {
    from: Slot,
    header: Header,
}

impl Net {
    /// A relay of this size, in which every address has sent a frame.
    pub fn new(size: Size) -> Net {
        let mut net = Net::empty(size);
        for number in 0..size.entries {
            let hello = net.frame(NOBODY, number);
            net.forward(&hello);
        }
        assert_eq!(net.relay.fdb().len() as u64, size.entries);
        net
    }

    /// A relay of this size that knows nobody.
    pub fn empty(size: Size) -> Net {
        let vlan = match size.vlans {
            0 => VlanConfig::Flat,
            count => VlanConfig::Trunk {
                vids: (1..=count).filter_map(Vid::new).collect::<VidSet>(),
                native: None,
            },
        };
        let max_entries = size.entries.max(1024) as u32;
        let limit = max_entries;
        let port = || {
            let mut config = PortConfig::local(Mode::Bridge, vlan.clone(), Vec::new());
            config.mac_policy = MacPolicy::Trusted { limit };
            Some(Port::new(config, Arc::default()))
        };
        let config = RelayConfig {
            max_entries,
            ..RelayConfig::default()
        };
        let ports = (0..size.ports).map(|_| port()).collect();
        let relay = Relay::new(config, ports, Arc::new(Fdb::new(max_entries)));
        Net {
            size,
            relay: relay.expect("the settings do not contradict each other"),
            active: (0..size.ports).filter_map(Slot::new).collect(),
            targets: PortSet::new(),
            now: 1,
        }
    }

    /// The relay's database.
    pub fn fdb(&self) -> &Fdb {
        self.relay.fdb()
    }

    /// A frame from address number `from` to number `to`, in the VLAN and at the port of `from`: numbers go
    /// round the VLANs first, and then round the ports.
    pub fn frame(&self, to: u64, from: u64) -> Sent {
        let mac = |number: u64| Mac::from_u64(0x0200_0000_0000 | number).octets();
        let mut bytes = [&mac(to)[..], &mac(from)].concat();
        if self.size.vlans > 0 {
            bytes.extend([0x81, 0]);
            bytes.extend((1 + (from % u64::from(self.size.vlans)) as u16).to_be_bytes());
        }
        bytes.extend([8, 0]);
        let port = (from / u64::from(self.size.vlans.max(1))) as usize % self.size.ports;
        Sent {
            from: Slot::new(port).expect("there is such a port"),
            header: ethernet::parse(&bytes).expect("a whole header"),
        }
    }

    /// Frames from `count` addresses, at random places in the database, each to a neighbour: an address of its
    /// VLAN behind another port.
    pub fn conversations(&self, count: usize) -> Vec<Sent> {
        let step = u64::from(self.size.vlans.max(1));
        let mut state = 1u64;
        let one = |_| {
            // Marsaglia's xorshift: the same conversations in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let from = state % self.size.entries;
            let up = from + step;
            let to = if up < self.size.entries {
                up
            } else {
                from - step
            };
            self.frame(to, from)
        };
        let mut sent: Vec<_> = (0..count).map(one).collect();
        // Frames of one port come together.
        sent.sort_by_key(|sent| sent.from.index());
        sent
    }

    /// Has the relay forward a burst, as a worker has it done for each port that has sent some of it; what became of
    /// the last frame.
    #[inline]
    pub fn forward_all(&mut self, burst: &[Sent]) -> Option<Verdict> {
        let mut last = None;
        let view = View {
            relay: &self.relay,
            active: &self.active,
        };
        for of_one in burst.chunk_by(|a, b| a.from == b.from) {
            let sender = view.sender(of_one[0].from, self.now);
            sender.expect(of_one.iter().map(|sent| &sent.header));
            for sent in of_one {
                let frame = Frame {
                    header: &sent.header,
                    len: 60,
                    segment_len: None,
                };
                let (verdict, class) = sender.forward(&frame, &mut self.targets);
                if let Verdict::One(to) = verdict {
                    let _ = std::hint::black_box(view.egress(to, &class, &frame));
                }
                last = std::hint::black_box(Some(verdict));
            }
        }
        last
    }

    /// What the relay does with a frame.
    #[inline]
    pub fn forward(&mut self, sent: &Sent) -> Verdict {
        let verdict = self.forward_all(std::slice::from_ref(sent));
        verdict.expect("one frame, one verdict")
    }
}
