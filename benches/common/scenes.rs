//! What frames meet on their way, each with a name.

use evb::frame::ethernet::Vid;
use evb::frame::offloads::Offloads;
use evb::relay::{Mode, PortConfig, RelayConfig, VidSet, VlanConfig};
use evb::virtqueue::driver::Layout;

use crate::frames::{BROADCAST, Frame, mac};
use crate::guests::Scene;

/// Frames of a burst: as many as the worker takes in a turn.
const BURST: usize = 32;
/// Frames to eight receivers: as many copies as the worker makes in a turn.
const FLOOD_BURST: usize = 8;
/// Large frames for which the receivers have room.
const LARGE_BURST: usize = 4;
/// Bytes of the smallest frame, and of the largest that a plain network carries.
const SMALL: usize = 64;
const FULL: usize = 1514;
/// Bytes of a frame of a network with large ones, and the parts in which a guest with small buffers sends it.
const JUMBO: usize = 9000;
const PARTS: u8 = 5;
/// The VLAN of those that have one.
const VID: u16 = 5;
/// As large as a TCP segment gets that is still to be cut.
const LARGE: usize = 65_000;

/// All of them.
pub fn scenes() -> Vec<(&'static str, Scene)> {
    let flat = || local(Mode::Bridge, VlanConfig::Flat);
    let access = || local(Mode::Bridge, VlanConfig::Access(vid()));
    let uplink = || PortConfig::uplink(VlanConfig::Flat, true);
    let vepa = || local(Mode::Vepa, VlanConfig::Flat);
    let by_itself = RelayConfig {
        reflect_local: true,
        ..RelayConfig::default()
    };
    let to_next = |len| burst(Frame::plain(mac(1), mac(0), len));
    let tagged = to_next(SMALL).into_iter().map(|frame| frame.tagged(VID));
    let spread = (0..BURST).map(|n| Frame::plain(mac(1 + (n % 8) as u8), mac(0), SMALL));
    let each = |frames| (1..=8).map(|guest| (guest, frames)).collect();
    let large = || vec![Frame::tso(mac(1), mac(0), LARGE); LARGE_BURST];
    // Segments of 1,448 bytes of payload behind 54 bytes of headers.
    let segments = LARGE_BURST * (LARGE - 54).div_ceil(1448);
    vec![
        ("bridge, 64 bytes", pair([flat(), flat()], to_next(SMALL))),
        ("bridge, 1514 bytes", pair([flat(), flat()], to_next(FULL))),
        (
            "9000 bytes in parts",
            Scene {
                layout: Layout::Pieces(PARTS),
                ..pair([flat(), flat()], to_next(JUMBO))
            },
        ),
        (
            "one frame of 64 bytes",
            pair([flat(), flat()], vec![Frame::plain(mac(1), mac(0), SMALL)]),
        ),
        ("access", pair([access(), access()], to_next(SMALL))),
        (
            "tag pushed",
            Scene {
                tagged: Some((1, VID)),
                ..pair([access(), trunk()], to_next(SMALL))
            },
        ),
        (
            "tag popped",
            Scene {
                tagged: Some((0, VID)),
                ..pair([trunk(), access()], tagged.collect())
            },
        ),
        ("VEPA", pair([vepa(), uplink()], to_next(SMALL))),
        (
            "reflected",
            Scene {
                sender: 2,
                ..among(vec![vepa(), vepa(), uplink()], to_next(SMALL))
            },
        ),
        (
            "VEPA, reflected by the relay",
            Scene {
                relay: by_itself,
                ..among(vec![vepa(), vepa(), uplink()], to_next(SMALL))
            },
        ),
        (
            "to 8 ports, 4 frames each",
            Scene {
                received: each(BURST / 8),
                ..among((0..9).map(|_| flat()).collect(), spread.collect())
            },
        ),
        (
            "flood to 8 ports",
            Scene {
                received: each(FLOOD_BURST),
                ..among(
                    (0..9).map(|_| flat()).collect(),
                    vec![Frame::plain(BROADCAST, mac(0), SMALL); FLOOD_BURST],
                )
            },
        ),
        ("65000 bytes, whole", pair([flat(), flat()], large())),
        (
            "65000 bytes, segmented",
            Scene {
                accepts: Offloads::NONE,
                received: vec![(1, segments)],
                ..pair([flat(), flat()], large())
            },
        ),
    ]
}

fn vid() -> Vid {
    Vid::new(VID).expect("a VLAN")
}

fn local(mode: Mode, vlan: VlanConfig) -> PortConfig {
    PortConfig::local(mode, vlan, vec![])
}

fn trunk() -> PortConfig {
    let vlan = VlanConfig::Trunk {
        vids: [vid()].into_iter().collect::<VidSet>(),
        native: None,
    };
    local(Mode::Bridge, vlan)
}

fn burst(frame: Frame) -> Vec<Frame> {
    vec![frame; BURST]
}

/// The first port sends to the second.
fn pair(ports: [PortConfig; 2], burst: Vec<Frame>) -> Scene {
    among(ports.into(), burst)
}

/// The same with more ports.
fn among(ports: Vec<PortConfig>, burst: Vec<Frame>) -> Scene {
    Scene {
        relay: RelayConfig::default(),
        ports,
        accepts: Offloads::CSUM | Offloads::TSO4,
        tagged: None,
        sender: 0,
        layout: Layout::default(),
        received: vec![(1, burst.len())],
        burst,
    }
}
