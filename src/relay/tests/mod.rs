//! The relay as a whole. What they share: a network of ports that frames are sent through, as
//! bytes, and whose copies come back as bytes.

mod addresses;
mod dice;
mod lifecycle;
mod matrix;
mod passthrough;
mod random;
mod scale;
mod vlans;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Fdb, Frame, MacPolicy, Mode, Port, PortConfig, PortSet, PortState, Relay, RelayConfig, Slot,
    Verdict, VidSet, View, VlanConfig, default_flood_unknown,
};
use crate::frame::ethernet::{Vid, parse};
use crate::frame::mac::Mac;
use crate::stats::DropReason;

/// Copies by port, as they leave.
type Copies = BTreeMap<usize, Vec<u8>>;

/// Copies by port, and why egress refuses others.
type Sent = (Copies, BTreeMap<usize, DropReason>);

fn slot(index: usize) -> Slot {
    Slot::new(index).unwrap()
}

fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

fn vids(numbers: &[u16]) -> VidSet {
    numbers.iter().copied().map(vid).collect()
}

fn trunk(numbers: &[u16], native: Option<u16>) -> VlanConfig {
    VlanConfig::Trunk {
        vids: vids(numbers),
        native: native.map(vid),
    }
}

/// The address of station `number`.
fn mac(number: u64) -> Mac {
    Mac::from_u64(0x5254_0000_0000 | number)
}

/// A bridge port that learns eight addresses.
fn bridge(vlan: VlanConfig) -> PortConfig {
    PortConfig::local(Mode::Bridge, vlan, Vec::new())
}

/// A port of this mode that is pinned to one address.
fn pinned(mode: Mode, vlan: VlanConfig, address: Mac) -> PortConfig {
    let mut port = PortConfig::local(mode, vlan, vec![address]);
    port.mac_policy = MacPolicy::Pinned;
    port.flood_unknown = default_flood_unknown(mode, port.mac_policy, &port.macs);
    port
}

/// A frame with these words from byte 12 on, tags included, and some payload.
fn frame(dst: Mac, src: Mac, words: &[u16]) -> Vec<u8> {
    let mut bytes = [dst.octets(), src.octets()].concat();
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    bytes.extend_from_slice(&[0xa5; 46]);
    bytes
}

/// An untagged IPv4 frame.
fn plain(dst: Mac, src: Mac) -> Vec<u8> {
    frame(dst, src, &[0x0800])
}

/// A relay with all its ports up.
struct Net {
    relay: Relay,
    active: PortSet,
    now: u32,
}

impl Net {
    fn new(config: RelayConfig, ports: Vec<PortConfig>) -> Net {
        let fdb = Arc::new(Fdb::new(config.max_entries));
        let active = (0..ports.len()).map(slot).collect();
        let port = |config| Some(Port::new(config, Arc::new(PortState::default())));
        let ports = ports.into_iter().map(port).collect();
        Net {
            relay: Relay::new(config, ports, fdb).unwrap(),
            active,
            now: 1000,
        }
    }

    /// The same ports and database under new settings of some ports.
    fn rebuild(&mut self, config: RelayConfig, change: impl Fn(usize, &mut PortConfig)) {
        let ports = self.relay.ports.iter().enumerate().map(|(index, port)| {
            let port = port.as_ref()?;
            let mut config = port.config().clone();
            change(index, &mut config);
            Some(Port::new(config, port.state().clone()))
        });
        let ports = ports.collect();
        self.relay = Relay::new(config, ports, self.relay.fdb().clone()).unwrap();
    }

    fn view(&self) -> View<'_> {
        View {
            relay: &self.relay,
            active: &self.active,
        }
    }

    fn state(&self, index: usize) -> &PortState {
        self.relay.port(slot(index)).unwrap().state()
    }

    /// Sends bytes in by a port. The error is that of ingress; copies that egress refuses are
    /// missing.
    fn send(&self, from: usize, bytes: &[u8]) -> Result<Copies, DropReason> {
        let (copies, refused) = self.send_fully(from, bytes)?;
        drop(refused);
        Ok(copies)
    }

    /// The same with what egress refused.
    fn send_fully(&self, from: usize, bytes: &[u8]) -> Result<Sent, DropReason> {
        let mut outcomes = self.burst(from, &[(bytes.to_vec(), None)]);
        outcomes.pop().expect("one frame, one outcome")
    }

    /// Sends frames in by a port, one after the other within a second. With each stands the length of its
    /// longest segment, if it is to be segmented.
    fn burst(
        &self,
        from: usize,
        frames: &[(Vec<u8>, Option<u32>)],
    ) -> Vec<Result<Sent, DropReason>> {
        let view = self.view();
        let sender = view.sender(slot(from), self.now);
        // Scratch space is dirty in general.
        let mut targets: PortSet = (0..7).map(|bit| slot(bit * 300)).collect();
        let one = |(bytes, segment_len): &(Vec<u8>, Option<u32>)| {
            let header = parse(bytes)?;
            let frame = Frame {
                header: &header,
                len: bytes.len() as u32,
                segment_len: *segment_len,
            };
            let (verdict, class) = sender.forward(&frame, &mut targets);
            let receivers: Vec<Slot> = match verdict {
                Verdict::Drop(reason) => return Err(reason),
                Verdict::One(to) => vec![to],
                Verdict::Many => targets.iter().collect(),
            };
            assert!(!receivers.is_empty());
            let mut sent = Sent::default();
            for to in receivers {
                assert!(self.active.contains(to), "to an inactive port");
                match view.egress(to, &class, &frame) {
                    Ok(action) => {
                        let mut copy = bytes.clone();
                        if action.pop {
                            copy.drain(12..16);
                        }
                        if let Some(tag) = action.push {
                            copy.splice(12..12, tag.to_bytes());
                        }
                        sent.0.insert(to.index(), copy);
                    }
                    Err(reason) => {
                        sent.1.insert(to.index(), reason);
                    }
                }
            }
            Ok(sent)
        };
        frames.iter().map(one).collect()
    }

    /// Who receives what is sent in by a port.
    fn receivers(&self, from: usize, bytes: &[u8]) -> Vec<usize> {
        let copies = self.send(from, bytes).unwrap_or_default();
        copies.into_keys().collect()
    }
}
